package ssmproto

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gorilla/websocket"
)

// sink is an agent on a real network that acknowledges everything and keeps nothing, so that the numbers are the client's as far as possible.
func sink(b *testing.B, serve func(ws *websocket.Conn)) Grant {
	b.Helper()
	var handlers sync.WaitGroup
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		handlers.Add(1)
		defer handlers.Done()
		ws, err := (&websocket.Upgrader{ReadBufferSize: 64 << 10}).Upgrade(w, r, nil)
		if err != nil {
			return
		}
		defer func() { _ = ws.Close() }()
		request := Message{Type: OutputStreamData, SchemaVersion: 1, Created: time.Now(), PayloadType: PayloadHandshakeRequest, Payload: []byte(portRequest)}
		_ = ws.WriteMessage(websocket.BinaryMessage, request.Append(nil))
		complete := Message{Type: OutputStreamData, SchemaVersion: 1, Created: time.Now(), SequenceNumber: 1, PayloadType: PayloadHandshakeComplete, Payload: []byte("{}")}
		_ = ws.WriteMessage(websocket.BinaryMessage, complete.Append(nil))
		serve(ws)
	}))
	b.Cleanup(func() {
		server.Close()
		handlers.Wait()
	})
	return Grant{SessionID: "bench", StreamURL: "ws" + strings.TrimPrefix(server.URL, "http"), Token: NewToken("t")}
}

// acknowledgeAll answers every stream message until the connection ends.
func acknowledgeAll(ws *websocket.Conn) {
	buf := make([]byte, 0, 512)
	for {
		_, frame, err := ws.ReadMessage()
		if err != nil {
			return
		}
		m, err := Parse(frame)
		if err != nil || m.Type != InputStreamData {
			continue
		}
		buf = appendAcknowledge(buf[:0], Ack{Type: InputStreamData, ID: m.ID, SequenceNumber: m.SequenceNumber}, time.Now())
		_ = ws.WriteMessage(websocket.BinaryMessage, buf)
	}
}

func BenchmarkUpload(b *testing.B) {
	for _, payload := range []int{1024, 16 << 10} {
		b.Run(fmt.Sprint(payload), func(b *testing.B) {
			c, err := Dial(b.Context(), sink(b, acknowledgeAll), &Options{MessageRate: -1, MaxPayload: payload})
			if err != nil {
				b.Fatal(err)
			}
			defer func() { _ = c.CloseNow() }()
			data := make([]byte, 32<<10)
			b.SetBytes(int64(len(data)))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := c.Write(data); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkDownload(b *testing.B) {
	c, err := Dial(b.Context(), sink(b, func(ws *websocket.Conn) {
		var reader sync.WaitGroup
		defer reader.Wait()
		reader.Go(func() {
			for {
				if _, _, err := ws.ReadMessage(); err != nil {
					return
				}
			}
		})
		m := Message{Type: OutputStreamData, SchemaVersion: 1, Created: time.Now(), PayloadType: PayloadOutput, Payload: make([]byte, 1024)}
		buf := make([]byte, 0, smallFrame)
		for m.SequenceNumber = 2; ; m.SequenceNumber++ {
			if buf = m.Append(buf[:0]); ws.WriteMessage(websocket.BinaryMessage, buf) != nil {
				return
			}
		}
	}), &Options{MessageRate: -1})
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = c.CloseNow() }()
	p := make([]byte, 32<<10)
	b.SetBytes(int64(len(p)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := io.ReadFull(c, p); err != nil {
			b.Fatal(err)
		}
	}
}

var _ net.Conn = (*Conn)(nil)
