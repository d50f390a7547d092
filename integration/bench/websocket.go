package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"time"

	"github.com/gorilla/websocket"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/ssmproto"
)

// measureWebSocket sets ssmproto without its pace against a bare WebSocket that carries the same frames: how much of what the machine's loopback can do is
// left after windows, acknowledgements and digests.
func measureWebSocket(ctx context.Context, b *bench, _ *world) ([]row, error) {
	var rows []row
	for _, payload := range []int{payloadSize, 16 << 10} {
		bytes := b.raw * mebibyte
		var ours, bare samples
		for range max(b.transfers, 3) {
			a, err := rawRate(ctx, bytes, payload, protocolUpload)
			if err != nil {
				return rows, fmt.Errorf("ssmproto: %w", err)
			}
			z, err := rawRate(ctx, bytes, payload, bareUpload)
			if err != nil {
				return rows, fmt.Errorf("bare WebSocket: %w", err)
			}
			ours, bare = append(ours, a), append(bare, z)
		}
		rows = append(rows, row{
			Name: fmt.Sprintf("ssmproto, %d-byte messages up ÷ bare WebSocket", payload), Value: ours.median() / bare.median(), Goal: atLeast(0.8),
			Detail: fmt.Sprintf("%s MiB/s, bare %s MiB/s", number(ours.median()), number(bare.median())),
		})
	}
	return rows, nil
}

// upload sends that many bytes in messages of payload bytes, and ends when the last of them has been acknowledged.
type upload func(ctx context.Context, url string, bytes, payload int) (time.Duration, error)

// rawRate gives MiB per second of one upload to a peer that acknowledges everything.
func rawRate(ctx context.Context, bytes, payload int, send upload) (float64, error) {
	peer := newPeer()
	defer peer.close()
	took, err := send(ctx, "ws"+strings.TrimPrefix(peer.server.URL, "http"), bytes, payload)
	return float64(bytes) / mebibyte / took.Seconds(), err
}

// peer is the other end: a handshake, and then one acknowledgement for each data message, as the protocol wants them.
type peer struct {
	server   *httptest.Server
	handlers sync.WaitGroup
}

func newPeer() *peer {
	p := &peer{}
	p.server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p.handlers.Add(1)
		defer p.handlers.Done()
		ws, err := (&websocket.Upgrader{ReadBufferSize: 64 << 10}).Upgrade(w, r, nil)
		if err != nil {
			return
		}
		defer ws.Close()
		acknowledge(ws)
	}))
	return p
}

func (p *peer) close() {
	p.server.Close()
	p.handlers.Wait()
}

const handshake = `{"AgentVersion":"3.3.987.0","RequestedClientActions":[{"ActionType":"SessionType","ActionParameters":{"SessionType":"Port",` +
	`"Properties":{"portNumber":"22","type":""}}}]}`

// acknowledge opens the session and answers until the connection ends. What it does not read as a data message, such as the token, has no answer.
func acknowledge(ws *websocket.Conn) {
	for n, m := range []ssmproto.Message{
		{PayloadType: ssmproto.PayloadHandshakeRequest, Payload: []byte(handshake)}, {PayloadType: ssmproto.PayloadHandshakeComplete, Payload: []byte("{}")},
	} {
		m.Type, m.SchemaVersion, m.Created, m.ID, m.SequenceNumber = ssmproto.OutputStreamData, 1, time.Now(), ssmproto.NewUUID(), int64(n)
		if ws.WriteMessage(websocket.BinaryMessage, m.Append(nil)) != nil {
			return
		}
	}
	var payload, frame []byte
	for {
		_, got, err := ws.ReadMessage()
		if err != nil {
			return
		}
		m, err := ssmproto.Parse(got)
		if err != nil || m.Type != ssmproto.InputStreamData {
			continue
		}
		payload = ssmproto.Ack{Type: m.Type, ID: m.ID, SequenceNumber: m.SequenceNumber}.Append(payload[:0])
		ack := ssmproto.Message{Type: ssmproto.Acknowledge, SchemaVersion: 1, Created: m.Created, ID: m.ID, Payload: payload}
		frame = ack.Append(frame[:0])
		if ws.WriteMessage(websocket.BinaryMessage, frame) != nil {
			return
		}
	}
}

// protocolUpload goes through ssmproto and ends when everything has been acknowledged, which is what Close waits for.
func protocolUpload(ctx context.Context, url string, bytes, payload int) (time.Duration, error) {
	grant := ssmproto.Grant{SessionID: "bench", StreamURL: url, Token: ssmproto.NewToken("bench")}
	c, err := ssmproto.Dial(ctx, grant, &ssmproto.Options{MessageRate: -1, MaxPayload: payload})
	if err != nil {
		return 0, err
	}
	began := time.Now()
	if _, err := io.CopyN(c, &endless{}, int64(bytes)); err != nil {
		return 0, errors.Join(err, c.CloseNow())
	}
	err = c.Close()
	return time.Since(began), err
}

// bareUpload writes the same frames, made beforehand, and reads the acknowledgements without looking at them.
func bareUpload(ctx context.Context, url string, bytes, payload int) (time.Duration, error) {
	ws, response, err := (&websocket.Dialer{WriteBufferSize: 64 << 10, ReadBufferSize: 64 << 10}).DialContext(ctx, url, nil)
	if err != nil {
		return 0, err
	}
	defer response.Body.Close()
	defer ws.Close()
	m := ssmproto.Message{
		Type: ssmproto.InputStreamData, SchemaVersion: 1, Created: time.Now(), PayloadType: ssmproto.PayloadOutput, ID: ssmproto.NewUUID(),
		Payload: make([]byte, payload),
	}
	frame, count := m.Append(nil), bytes/payload
	read := make(chan error, 1)
	go func() {
		for range count + 2 { // and the two of the handshake
			if _, _, err := ws.ReadMessage(); err != nil {
				read <- err
				return
			}
		}
		read <- nil
	}()
	began := time.Now()
	for range count {
		if err := ws.WriteMessage(websocket.BinaryMessage, frame); err != nil {
			return 0, errors.Join(err, <-read)
		}
	}
	err = <-read
	return time.Since(began), err
}
