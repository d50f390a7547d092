package hostkeys

import (
	"context"
	"errors"
	"slices"
	"sort"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"
)

// ErrNotPinned says that nothing is pinned for a place.
var ErrNotPinned = errors.New("no host key is pinned for this machine")

// Pin is what is believed of one machine: the keys it may show, and why.
type Pin struct {
	Place   string    `json:"place"`   // authz.Instance.Place: account/region/id
	Keys    []string  `json:"keys"`    // "type base64" each, as in authorized_keys and known_hosts
	Learned Belief    `json:"learned"` // how the first of them came to be believed
	At      time.Time `json:"at"`
}

// NewPin makes a pin, learned now.
func NewPin(place string, learned Belief, keys ...ssh.PublicKey) Pin {
	pin := Pin{Place: place, Learned: learned, At: time.Now().UTC().Truncate(time.Second)}
	for _, key := range keys {
		pin.Keys = append(pin.Keys, keyText(key))
	}
	return pin
}

func keyText(key ssh.PublicKey) string {
	return strings.TrimSpace(string(ssh.MarshalAuthorizedKey(key)))
}

// Has reports whether key is one of the pinned.
func (p Pin) Has(key ssh.PublicKey) bool { return slices.Contains(p.Keys, keyText(key)) }

// Types gives the key types that are pinned (ssh-ed25519, …), each once.
func (p Pin) Types() []string {
	var types []string
	for _, key := range p.Keys {
		if kind, _, _ := strings.Cut(key, " "); !slices.Contains(types, kind) {
			types = append(types, kind)
		}
	}
	return types
}

// PublicKeys gives the keys themselves. Text that is no key, from a store somebody edited, is left out, so it matches nothing.
func (p Pin) PublicKeys() []ssh.PublicKey {
	var keys []ssh.PublicKey
	for _, text := range p.Keys {
		if key, _, _, _, err := ssh.ParseAuthorizedKey([]byte(text)); err == nil {
			keys = append(keys, key)
		}
	}
	return keys
}

// PinStore remembers pins. It is the one truth of all replicas that share it, and safe for use by several goroutines. Every method returns once the
// answer is as durable as the store is, or with an error; ErrNotPinned is the only one that says something about the pin.
type PinStore interface {
	// Get gives the pin of a place, or ErrNotPinned.
	Get(ctx context.Context, place string) (Pin, error)
	// PutIfAbsent pins unless the place has a pin already, and gives the pin that is now in force. Of several at once exactly one puts.
	PutIfAbsent(ctx context.Context, pin Pin) (inForce Pin, err error)
	// Replace pins, whatever was there.
	Replace(ctx context.Context, pin Pin) error
	// Delete forgets the pin of a place, or says ErrNotPinned.
	Delete(ctx context.Context, place string) error
	// List gives all pins, sorted by place.
	List(ctx context.Context) ([]Pin, error)
}

func sortPins(pins []Pin) {
	sort.Slice(pins, func(i, j int) bool { return pins[i].Place < pins[j].Place })
}
