package ssmproto

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/gorilla/websocket"
)

// FuzzOpening opens a data channel at any address with any token, up to the network. It fails in words, in which there is neither the token nor what a signed
// address carries in its query.
func FuzzOpening(f *testing.F) {
	f.Add("wss://ssmmessages.eu-west-1.amazonaws.com/v1/data-channel/a?role=publish_subscribe", "AAEAAfSecretToken")
	f.Add("ws://127.0.0.1:1/x?X-Amz-Signature=0123456789abcdef", "token with \x00, \xff and \"")
	f.Add("wss://[::1", "")
	f.Add("http://a b/?secretsecret", "x")
	f.Add("wss://user:password@host/%zz?secretsecret", "x")
	nowhere := errors.New("there is no network")
	refuse := func(context.Context, string, string) (net.Conn, error) { return nil, nowhere }
	f.Fuzz(func(t *testing.T, address, token string) {
		grant := Grant{
			SessionID: "s", StreamURL: address, Token: NewToken(token),
			Sign: func(_ context.Context, r *http.Request) error { r.Header.Set("Authorization", "signed"); return nil },
		}
		_, err := Dial(t.Context(), grant, &Options{Dialer: &websocket.Dialer{NetDialContext: refuse, NetDialTLSContext: refuse}})
		if err == nil {
			t.Fatal("a connection without a network")
		}
		words := err.Error()
		if _, query, _ := strings.Cut(address, "?"); len(query) > 8 && strings.Contains(words, query) || len(token) > 8 && strings.Contains(words, token) && !strings.Contains(address, token) {
			t.Errorf("%q tells a secret", words)
		}
		opening, err := appendOpenDataChannel(nil, grant.Token, NewUUID(), DefaultClientVersion)
		var read openDataChannel
		if err != nil || json.Unmarshal(opening, &read) != nil {
			t.Fatalf("the opening frame is no JSON: %q, %v", opening, err)
		}
		if utf8.ValidString(token) && read.TokenValue != token {
			t.Errorf("the token %q arrives as %q", token, read.TokenValue)
		}
	})
}
