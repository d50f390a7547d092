package hostkeys

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"

	"golang.org/x/crypto/ssh"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/authz"
)

const somewhere = "111122223333/eu-west-1/i-0abc"

func prints(keys ...ssh.PublicKey) func(context.Context) (string, error) {
	var b strings.Builder
	b.WriteString("[    0.000000] Linux version 6.1\n" + consoleBegin + "\n")
	for _, key := range keys {
		b.WriteString(keyText(key) + " root@ip-10-0-0-1\n")
	}
	b.WriteString(consoleEnd + "\n")
	return func(context.Context) (string, error) { return b.String(), nil }
}

func TestCheck(t *testing.T) {
	shown, other, otherKind := newEd25519(t).PublicKey(), newEd25519(t).PublicKey(), newECDSA(t).PublicKey()
	silent := func(context.Context) (string, error) { return "", nil }
	denied := errors.New("UnauthorizedOperation")
	broken := func(context.Context) (string, error) { return "", denied }
	for _, c := range []struct {
		name    string
		mode    Mode
		pinned  []ssh.PublicKey
		console func(context.Context) (string, error)
		how     Belief
		reason  authz.Reason // of the refusal; empty: believed
		cause   error
		pins    ssh.PublicKey // that is pinned afterwards; nil: nothing
	}{
		{name: "first use", how: BelievedFirstUse, pins: shown},
		{name: "first use, empty console", console: silent, how: BelievedFirstUse, pins: shown},
		{name: "first use, console out of reach", console: broken, how: BelievedFirstUse, pins: shown},
		{name: "first use, console has it", console: prints(otherKind, shown), how: BelievedConsole, pins: shown},
		{name: "first use, console has another", console: prints(other), reason: authz.ReasonHostKeyChanged},
		{name: "first use, console has other types only", console: prints(otherKind), reason: authz.ReasonHostKeyUnknown, cause: ErrOtherKeyType, pins: otherKind},
		{name: "first use, pinned", pinned: []ssh.PublicKey{otherKind, shown}, console: prints(other), how: BelievedPin, pins: shown},
		{name: "first use, changed", pinned: []ssh.PublicKey{other}, console: prints(shown), reason: authz.ReasonHostKeyChanged, pins: other},
		{name: "first use, pinned type is gone", pinned: []ssh.PublicKey{otherKind}, reason: authz.ReasonHostKeyChanged, pins: otherKind},
		{name: "console has it", mode: Console, console: prints(shown), how: BelievedConsole, pins: shown},
		{name: "console has another", mode: Console, console: prints(other), reason: authz.ReasonHostKeyChanged},
		{name: "console is empty", mode: Console, console: silent, reason: authz.ReasonHostKeyUnknown},
		{name: "console is out of reach", mode: Console, console: broken, reason: authz.ReasonHostKeyUnknown, cause: denied},
		{name: "console, none to ask", mode: Console, reason: authz.ReasonHostKeyUnknown},
		{name: "console, pinned", mode: Console, pinned: []ssh.PublicKey{shown}, how: BelievedPin, pins: shown},
		{name: "strict, not pinned", mode: Pinned, console: prints(shown), reason: authz.ReasonHostKeyUnknown},
		{name: "strict, pinned", mode: Pinned, pinned: []ssh.PublicKey{shown}, how: BelievedPin, pins: shown},
		{name: "strict, changed", mode: Pinned, pinned: []ssh.PublicKey{other}, reason: authz.ReasonHostKeyChanged, pins: other},
	} {
		t.Run(c.name, func(t *testing.T) {
			v := &Verifier{Store: NewMemoryStore(), Policy: c.mode}
			if c.pinned != nil {
				if err := v.Store.Replace(t.Context(), NewPin(somewhere, BelievedOperator, c.pinned...)); err != nil {
					t.Fatal(err)
				}
			}
			how, err := v.Check(t.Context(), somewhere, shown, c.console)
			if c.reason == "" {
				if err != nil || how != c.how {
					t.Errorf("believed as %q, %v; want %q", how, err, c.how)
				}
			} else if r := refusal(t, err); r.Reason != c.reason || how != "" || r.Subject != somewhere || (c.cause != nil && !errors.Is(err, c.cause)) {
				t.Errorf("refused as %v, believed as %q; want %s because of %v", err, how, c.reason, c.cause)
			}
			pin, err := v.Store.Get(t.Context(), somewhere)
			if c.pins == nil {
				if !errors.Is(err, ErrNotPinned) {
					t.Errorf("pinned %v, %v; want nothing", pin, err)
				}
			} else if err != nil || !pin.Has(c.pins) {
				t.Errorf("pinned %v, %v; want %s", pin, err, describe(c.pins))
			}
		})
	}
}

func TestChangedKeyNamesBothFingerprints(t *testing.T) {
	v := &Verifier{Store: NewMemoryStore()}
	old, shown := newEd25519(t).PublicKey(), newECDSA(t).PublicKey()
	if _, err := v.Check(t.Context(), somewhere, old, nil); err != nil {
		t.Fatal(err)
	}
	_, err := v.Check(t.Context(), somewhere, shown, nil)
	detail := refusal(t, err).Detail
	for _, want := range []string{ssh.FingerprintSHA256(old), ssh.FingerprintSHA256(shown), old.Type(), shown.Type(), BelievedFirstUse} {
		if !strings.Contains(detail, want) {
			t.Errorf("%q does not tell %s", detail, want)
		}
	}
}

// What console keys of other types only cost is one more attempt: then the negotiation asks for a type that is known.
func TestOtherKeyTypeHealsAtTheNextAttempt(t *testing.T) {
	v := &Verifier{Store: NewMemoryStore()}
	rsa := newRSA(t, minMachineRSABits).PublicKey()
	if _, err := v.Check(t.Context(), somewhere, newEd25519(t).PublicKey(), prints(rsa)); !errors.Is(err, ErrOtherKeyType) {
		t.Fatalf("got %v, want ErrOtherKeyType", err)
	}
	if first := v.Algorithms(somewhere)[0]; first != ssh.KeyAlgoRSASHA512 {
		t.Errorf("the next attempt asks for %s first", first)
	}
	if how, err := v.Check(t.Context(), somewhere, rsa, nil); err != nil || how != BelievedPin {
		t.Errorf("the next attempt: %q, %v", how, err)
	}
}

// Two first connections at once that are shown two keys cannot both be right.
func TestFirstConnectionsAgree(t *testing.T) {
	for name, open := range pinStores {
		t.Run(name, func(t *testing.T) {
			v := &Verifier{Store: open(t)}
			const n = 8
			var errs [n]error
			keys := make([]ssh.PublicKey, n)
			for i := range keys {
				keys[i] = newEd25519(t).PublicKey()
			}
			var wg sync.WaitGroup
			for i := range n {
				wg.Go(func() { _, errs[i] = v.Check(t.Context(), somewhere, keys[i], nil) })
			}
			wg.Wait()
			believed := 0
			for _, err := range errs {
				if err == nil {
					believed++
				} else if r := refusal(t, err); r.Reason != authz.ReasonHostKeyChanged {
					t.Errorf("refused as %s", r.Reason)
				}
			}
			if believed != 1 {
				t.Errorf("%d of %d different keys are believed, want 1", believed, n)
			}
		})
	}
}

// A console that was still being read when the person gave up is not a reason to believe anything.
func TestGivingUpIsNotFirstUse(t *testing.T) {
	v := &Verifier{Store: NewMemoryStore()}
	ctx, cancel := context.WithCancel(t.Context())
	console := func(ctx context.Context) (string, error) {
		cancel()
		return "", ctx.Err()
	}
	if how, err := v.Check(ctx, somewhere, newEd25519(t).PublicKey(), console); !errors.Is(err, context.Canceled) {
		t.Errorf("believed as %q, %v", how, err)
	}
	if _, err := v.Store.Get(t.Context(), somewhere); !errors.Is(err, ErrNotPinned) {
		t.Errorf("something is pinned: %v", err)
	}
}

func TestWeakMachineKeyIsRefused(t *testing.T) {
	v := &Verifier{Store: NewMemoryStore()}
	if _, err := v.Check(t.Context(), somewhere, newRSA(t, 1024).PublicKey(), nil); refusal(t, err).Reason != authz.ReasonHostKeyUnknown {
		t.Errorf("got %v", err)
	}
}

func TestParseMode(t *testing.T) {
	for text, want := range map[string]Mode{"": FirstUse, "first-use": FirstUse, "console": Console, "pinned": Pinned} {
		if got, err := ParseMode(text); err != nil || got != want {
			t.Errorf("%q: %q, %v", text, got, err)
		}
	}
	if mode, err := ParseMode("off"); err == nil {
		t.Errorf("off is %q", mode)
	}
}

func TestWantsConsole(t *testing.T) {
	key := newEd25519(t).PublicKey()
	for name, test := range map[string]struct {
		v    *Verifier
		pin  bool
		want bool
	}{
		"nothing is known":      {v: &Verifier{}, want: true},
		"a key is pinned":       {v: &Verifier{}, pin: true},
		"pinned keys only":      {v: &Verifier{Policy: Pinned}},
		"an authority is there": {v: &Verifier{HostCAs: []ssh.PublicKey{key}}},
	} {
		test.v.Store = NewMemoryStore()
		if test.pin {
			if _, err := test.v.Store.PutIfAbsent(t.Context(), NewPin("a/r/i", BelievedFirstUse, key)); err != nil {
				t.Fatal(err)
			}
		}
		if got := test.v.WantsConsole(t.Context(), "a/r/i"); got != test.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}
