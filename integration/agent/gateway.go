package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/gorilla/websocket"
)

const (
	schemaVersion   = "1.0"
	requestLimit    = 15 * time.Second // as AWS's agent has it
	maxAnswer       = 64 << 10         // bytes of an HTTP answer
	maxFrame        = 1 << 20          // bytes of a message; 64 KiB payloads are known to pass
	terminatedText  = "Session is already terminated"
	controlChannel  = "control-channel"
	dataChannel     = "data-channel"
	controlQuery    = "role=subscribe&stream=input"
	dataQuery       = "role=publish_subscribe"
	upgradeTimeout  = 15 * time.Second
	clientHandshake = 15 * time.Second // each wait of a handshake, SPEC.md §5.2
)

// errTerminated is the service's answer to a data channel of a session that has ended.
var errTerminated = errors.New("the session is already terminated")

// messageGateway is the service as an agent sees it: a POST for a token, then a WebSocket.
type messageGateway struct {
	base   *url.URL
	cfg    *Config
	http   *http.Client
	dialer *websocket.Dialer
}

func newMessageGateway(cfg *Config) messageGateway {
	base, err := url.Parse(cfg.Endpoint)
	if err != nil { // complete has parsed it before
		base = &url.URL{}
	}
	return messageGateway{
		base: base, cfg: cfg,
		http:   &http.Client{Timeout: requestLimit, Transport: &http.Transport{TLSClientConfig: cfg.TLS, DisableKeepAlives: true}},
		dialer: &websocket.Dialer{TLSClientConfig: cfg.TLS, HandshakeTimeout: upgradeTimeout, ReadBufferSize: 4096, WriteBufferSize: 4096},
	}
}

func (g *messageGateway) address(kind, id, query string) *url.URL {
	u := *g.base
	u.Path = "/v1/" + kind + "/" + id
	u.RawQuery = query
	return &u
}

type createRequest struct {
	MessageSchemaVersion string
	RequestID            string  `json:"RequestId"`
	ClientID             *string `json:"ClientId,omitempty"` // data channels only, and empty there
}

// create is CreateControlChannel or CreateDataChannel: it asks for a token (SPEC.md §13.1).
func (g *messageGateway) create(ctx context.Context, kind, id string) (token string, err error) {
	ask := createRequest{MessageSchemaVersion: schemaVersion, RequestID: newID().String()}
	if kind == dataChannel {
		ask.ClientID = new(string)
	}
	body, err := json.Marshal(ask)
	if err != nil {
		return "", err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, g.address(kind, id, "").String(), bytes.NewReader(body))
	if err != nil {
		return "", fmt.Errorf("create %s: %w", kind, err)
	}
	req.Header.Set("Content-Type", "application/json")
	if err := g.cfg.Credentials.sign(ctx, req, body, g.cfg.Region); err != nil {
		return "", err
	}
	resp, err := g.http.Do(req)
	if err != nil {
		return "", fmt.Errorf("create %s: %w", kind, err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return "", fmt.Errorf("create %s: %w", kind, err)
	}
	return tokenIn(kind, resp, text)
}

func tokenIn(kind string, resp *http.Response, text []byte) (string, error) {
	if resp.StatusCode != http.StatusCreated {
		if strings.Contains(string(text), terminatedText) {
			return "", fmt.Errorf("create %s: %w", kind, errTerminated)
		}
		return "", fmt.Errorf("create %s: %s: %.200s", kind, resp.Status, text)
	}
	var answer struct{ TokenValue string }
	if err := xml.Unmarshal(text, &answer); err != nil {
		return "", fmt.Errorf("create %s: %w", kind, err)
	}
	if answer.TokenValue == "" {
		return "", fmt.Errorf("create %s: no token in the answer", kind)
	}
	return answer.TokenValue, nil
}

// open upgrades to a WebSocket and sends hello as the text frame that comes first (SPEC.md §13.2).
func (g *messageGateway) open(ctx context.Context, kind, id, query string, hello any) (*socket, error) {
	u := g.address(kind, id, query)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", kind, err)
	}
	if err := g.cfg.Credentials.sign(ctx, req, nil, g.cfg.Region); err != nil {
		return nil, err
	}
	u.Scheme = "ws" + strings.TrimPrefix(u.Scheme, "http")
	ws, resp, err := g.dialer.DialContext(ctx, u.String(), req.Header)
	if resp != nil {
		defer resp.Body.Close()
	}
	if err != nil {
		if resp != nil {
			err = fmt.Errorf("%w: %s", err, resp.Status)
		}
		return nil, fmt.Errorf("open %s: %w", kind, err)
	}
	first, err := json.Marshal(hello)
	if err != nil {
		_ = ws.Close()
		return nil, err
	}
	s := newSocket(ws)
	if err := s.write(websocket.TextMessage, first); err != nil {
		s.close()
		return nil, fmt.Errorf("open %s: %w", kind, err)
	}
	return s, nil
}

type controlHello struct {
	Cookie               any
	MessageSchemaVersion string
	RequestID            string `json:"RequestId"`
	TokenValue           string
	AgentVersion         string
	PlatformType         string
}

type dataHello struct {
	MessageSchemaVersion string
	RequestID            string `json:"RequestId"`
	TokenValue           string
	ClientInstanceID     string `json:"ClientInstanceId"`
	ClientID             string `json:"ClientId"`
}

func (g *messageGateway) openControl(ctx context.Context) (*socket, error) {
	token, err := g.create(ctx, controlChannel, g.cfg.InstanceID)
	if err != nil {
		return nil, err
	}
	return g.open(ctx, controlChannel, g.cfg.InstanceID, controlQuery, controlHello{
		MessageSchemaVersion: schemaVersion, RequestID: newID().String(), TokenValue: token, AgentVersion: g.cfg.AgentVersion, PlatformType: "linux",
	})
}

func (g *messageGateway) openData(ctx context.Context, sessionID string) (*socket, error) {
	token, err := g.create(ctx, dataChannel, sessionID)
	if err != nil {
		return nil, err
	}
	return g.open(ctx, dataChannel, sessionID, dataQuery, dataHello{
		MessageSchemaVersion: schemaVersion, RequestID: newID().String(), TokenValue: token, ClientInstanceID: g.cfg.InstanceID,
	})
}
