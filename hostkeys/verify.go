package hostkeys

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/authz"
)

// Mode says what suffices to believe a machine of which nothing is pinned.
type Mode string

// The modes, from the most trusting to the strictest. A pin, once there, decides in each of them.
const (
	// FirstUse believes the console text where it has the keys, and otherwise what the machine shows first. Session Manager has authenticated the
	// instance by then, so what remains is AWS itself, and another program on the instance that took the port.
	FirstUse Mode = "first-use"
	// Console believes the console text only.
	Console Mode = "console"
	// Pinned believes pins only, which somebody put there.
	Pinned Mode = "pinned"
)

// ParseMode reads a mode; the empty one is FirstUse.
func ParseMode(s string) (Mode, error) {
	switch mode := Mode(s); mode {
	case "":
		return FirstUse, nil
	case FirstUse, Console, Pinned:
		return mode, nil
	}
	return "", fmt.Errorf("%q is not a way to believe host keys: use %q, %q or %q", s, FirstUse, Console, Pinned)
}

// Belief says why a machine's key is believed. It is a plain string so that who asks need not import this package.
type Belief = string

// Why a key is believed.
const (
	BelievedPin      Belief = "pin"       // it is the one that was believed before
	BelievedConsole  Belief = "console"   // the machine printed it at boot
	BelievedFirstUse Belief = "first-use" // nothing else was known
	BelievedCA       Belief = "host-ca"   // a trusted CA certified it for this machine
	BelievedOperator Belief = "operator"  // somebody pinned it
)

// ErrOtherKeyType is the cause of a refusal when what is known of the machine are keys of other types than the one it showed, and they have been pinned
// only now. A second attempt negotiates a known type and may well succeed; nothing has changed on the machine.
var ErrOtherKeyType = errors.New("the machine's known keys are of other types than the one it showed")

// Verifier judges the keys that machines show. Store is required; the zero value of the rest works. It is safe for use by several goroutines.
type Verifier struct {
	Store   PinStore
	Policy  Mode            // FirstUse if empty
	HostCAs []ssh.PublicKey // CAs that certify machines for their instance id or private DNS name
	Log     *slog.Logger    // hears why a console could not be read; nil: nobody does
}

// Check judges the key that the machine at place (authz.Instance.Place: account/region/id) shows, and says why it is believed. console reads the text
// that the machine printed at boot and is asked only where nothing is pinned; it may be nil. A key that is not believed is an *authz.Refusal.
func (v *Verifier) Check(ctx context.Context, place string, key ssh.PublicKey, console func(context.Context) (string, error)) (Belief, error) {
	return v.CheckNamed(ctx, place, nil, key, console)
}

// CheckNamed is Check for a machine that a host certificate may also call by other names than its instance id, such as its private DNS name.
func (v *Verifier) CheckNamed(
	ctx context.Context, place string, names []string, key ssh.PublicKey, console func(context.Context) (string, error),
) (Belief, error) {
	if cert, ok := key.(*ssh.Certificate); ok {
		if v.trusted(cert.SignatureKey) {
			return v.checkCertificate(place, names, cert)
		}
		key = cert.Key // as OpenSSH does: a certificate of a CA nobody here knows is worth the key in it
	}
	if bits := rsaBits(key); bits != 0 && bits < minMachineRSABits {
		return "", unknown(place, fmt.Sprintf("it showed an RSA key of %d bits, less than %d", bits, minMachineRSABits), nil)
	}
	pin, err := v.Store.Get(ctx, place)
	switch {
	case errors.Is(err, ErrNotPinned):
		return v.checkNew(ctx, place, key, console)
	case err != nil:
		return "", unknown(place, "", fmt.Errorf("look up the pinned host key: %w", err)) // fail closed
	}
	if err := matches(pin, key); err != nil {
		return "", err
	}
	return BelievedPin, nil
}

// WantsConsole foretells whether Check will read the console text of the machine at place: nothing is pinned for it, the mode does not rule it out, and no
// authority is trusted whose certificate it may show instead.
func (v *Verifier) WantsConsole(ctx context.Context, place string) bool {
	if v.mode() == Pinned || len(v.HostCAs) > 0 {
		return false
	}
	_, err := v.Store.Get(ctx, place)
	return errors.Is(err, ErrNotPinned)
}

// minMachineRSABits is what ssh-keygen has made by default since 2005.
const minMachineRSABits = 2048

// checkNew judges a key of a machine of which nothing is pinned.
func (v *Verifier) checkNew(ctx context.Context, place string, key ssh.PublicKey, console func(context.Context) (string, error)) (Belief, error) {
	mode := v.mode()
	if mode == Pinned {
		return "", unknown(place, "no key is pinned for it; it showed "+describe(key), nil)
	}
	var text string
	if console != nil {
		var err error
		if text, err = console(ctx); err != nil {
			if ctx.Err() != nil || mode == Console {
				return "", unknown(place, "its console text could not be read; it showed "+describe(key), fmt.Errorf("read the console text: %w", err))
			}
			v.log().InfoContext(ctx, "console text not read, believing the first key shown", "place", place, "err", err)
		}
	}
	known := ParseConsole(text)
	switch {
	case len(known) > 0:
		return v.learn(ctx, NewPin(place, BelievedConsole, known...), key)
	case mode == Console:
		return "", unknown(place, "its console text has no keys; it showed "+describe(key), nil)
	}
	return v.learn(ctx, NewPin(place, BelievedFirstUse, key), key)
}

// learn pins what is known and judges key by the pin that is then in force: another connection may have been first. Console keys that contradict what
// the machine shows are not pinned, so that a machine which prints its new keys at its next boot mends itself.
func (v *Verifier) learn(ctx context.Context, pin Pin, key ssh.PublicKey) (Belief, error) {
	otherType := !slices.Contains(pin.Types(), key.Type())
	if err := matches(pin, key); err != nil && !otherType {
		return "", err
	}
	inForce, err := v.Store.PutIfAbsent(ctx, pin)
	if err != nil {
		return "", unknown(pin.Place, "", fmt.Errorf("pin the host key: %w", err))
	}
	if err := matches(inForce, key); err != nil {
		if !slices.Contains(inForce.Types(), key.Type()) {
			return "", unknown(pin.Place, "it showed "+describe(key)+", and known are "+describeAll(inForce), ErrOtherKeyType)
		}
		return "", err
	}
	return inForce.Learned, nil
}

// matches refuses a key that is not in the pin.
func matches(pin Pin, key ssh.PublicKey) error {
	if pin.Has(key) {
		return nil
	}
	return &authz.Refusal{
		Reason: authz.ReasonHostKeyChanged, Subject: pin.Place,
		Detail: fmt.Sprintf("known: %s (%s, %s); shown: %s", describeAll(pin), pin.Learned, pin.At.Format(time.DateOnly), describe(key)),
	}
}

func unknown(place, detail string, cause error) error {
	return &authz.Refusal{Reason: authz.ReasonHostKeyUnknown, Subject: place, Detail: detail, Cause: cause}
}

// describe gives a key as ssh-keygen -l does, without the size.
func describe(key ssh.PublicKey) string { return key.Type() + " " + ssh.FingerprintSHA256(key) }

func describeAll(pin Pin) string {
	var all []string
	for _, key := range pin.PublicKeys() {
		all = append(all, describe(key))
	}
	return strings.Join(all, ", ")
}

func (v *Verifier) mode() Mode {
	if v.Policy == "" {
		return FirstUse
	}
	return v.Policy
}

func (v *Verifier) log() *slog.Logger {
	if v.Log == nil {
		return slog.New(slog.DiscardHandler)
	}
	return v.Log
}
