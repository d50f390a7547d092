package hostkeys

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// pinStores are all implementations; each passes the one contract.
var pinStores = map[string]func(t *testing.T) PinStore{
	"memory": func(*testing.T) PinStore { return NewMemoryStore() },
	"file":   func(t *testing.T) PinStore { return NewFileStore(filepath.Join(t.TempDir(), "state", "pins.db")) },
}

func TestPinStoreContract(t *testing.T) {
	for name, open := range pinStores {
		t.Run(name, func(t *testing.T) {
			t.Run("lives", func(t *testing.T) { storeLives(t, open(t)) })
			t.Run("first wins", func(t *testing.T) { storeFirstWins(t, open(t)) })
			t.Run("keeps its own copy", func(t *testing.T) { storeKeepsCopy(t, open(t)) })
			t.Run("ends with its context", func(t *testing.T) { storeEndsWithContext(t, open(t)) })
		})
	}
}

func storeLives(t *testing.T, s PinStore) {
	ctx := t.Context()
	absent := func(place string) {
		t.Helper()
		if _, err := s.Get(ctx, place); !errors.Is(err, ErrNotPinned) {
			t.Errorf("Get of %s: %v, want ErrNotPinned", place, err)
		}
		if err := s.Delete(ctx, place); !errors.Is(err, ErrNotPinned) {
			t.Errorf("Delete of %s: %v, want ErrNotPinned", place, err)
		}
	}
	absent("1/r/i-a")
	if pins, err := s.List(ctx); err != nil || len(pins) != 0 {
		t.Errorf("empty List: %v %v", pins, err)
	}
	a := NewPin("1/r/i-a", BelievedFirstUse, newEd25519(t).PublicKey())
	b := NewPin("1/r/i-b", BelievedConsole, newEd25519(t).PublicKey(), newECDSA(t).PublicKey())
	for _, pin := range []Pin{b, a} {
		if inForce, err := s.PutIfAbsent(ctx, pin); err != nil || !cmp.Equal(inForce, pin) {
			t.Fatalf("PutIfAbsent: %+v %v", inForce, err)
		}
	}
	if pins, err := s.List(ctx); err != nil || !cmp.Equal(pins, []Pin{a, b}) {
		t.Errorf("List (%v): %s", err, cmp.Diff([]Pin{a, b}, pins))
	}
	a2 := NewPin(a.Place, BelievedOperator, newEd25519(t).PublicKey())
	if inForce, err := s.PutIfAbsent(ctx, a2); err != nil || !cmp.Equal(inForce, a) {
		t.Errorf("PutIfAbsent over a pin: %+v %v, want what was there", inForce, err)
	}
	if err := s.Replace(ctx, a2); err != nil {
		t.Fatal(err)
	}
	if got, err := s.Get(ctx, a.Place); err != nil || !cmp.Equal(got, a2) {
		t.Errorf("after Replace (%v): %s", err, cmp.Diff(a2, got))
	}
	if err := s.Delete(ctx, a.Place); err != nil {
		t.Fatal(err)
	}
	absent(a.Place)
	if got, err := s.Get(ctx, b.Place); err != nil || !cmp.Equal(got, b) {
		t.Errorf("the other pin (%v): %s", err, cmp.Diff(b, got))
	}
}

func storeFirstWins(t *testing.T, s PinStore) {
	const n = 16
	var inForce [n]Pin
	pins := make([]Pin, n)
	for i := range pins {
		pins[i] = NewPin("1/r/i-a", BelievedFirstUse, newEd25519(t).PublicKey())
	}
	var wg sync.WaitGroup
	for i := range pins {
		wg.Go(func() {
			var err error
			if inForce[i], err = s.PutIfAbsent(t.Context(), pins[i]); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	won := 0
	for i := range pins {
		if !cmp.Equal(inForce[i], inForce[0]) {
			t.Errorf("two pins in force: %+v and %+v", inForce[0], inForce[i])
		}
		if cmp.Equal(inForce[i], pins[i]) {
			won++
		}
	}
	if won != 1 {
		t.Errorf("%d of %d put their pin, want 1", won, n)
	}
}

func storeKeepsCopy(t *testing.T, s PinStore) {
	pin := NewPin("1/r/i-a", BelievedFirstUse, newEd25519(t).PublicKey())
	want := pin.Keys[0]
	got, err := s.PutIfAbsent(t.Context(), pin)
	if err != nil {
		t.Fatal(err)
	}
	pin.Keys[0], got.Keys[0] = "theirs", "theirs"
	if got, err = s.Get(t.Context(), pin.Place); err != nil || got.Keys[0] != want {
		t.Fatalf("a caller's slice is the store's: %+v %v", got, err)
	}
	got.Keys[0] = "theirs"
	if got, err = s.Get(t.Context(), pin.Place); err != nil || got.Keys[0] != want {
		t.Errorf("a reader's slice is the store's: %+v %v", got, err)
	}
}

func storeEndsWithContext(t *testing.T, s PinStore) {
	pin := NewPin("1/r/i-a", BelievedFirstUse, newEd25519(t).PublicKey())
	if err := s.Replace(t.Context(), pin); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, getErr := s.Get(ctx, pin.Place)
	_, putErr := s.PutIfAbsent(ctx, pin)
	_, listErr := s.List(ctx)
	for _, err := range []error{getErr, putErr, listErr, s.Replace(ctx, pin), s.Delete(ctx, pin.Place)} {
		if !errors.Is(err, context.Canceled) {
			t.Errorf("got %v, want context.Canceled", err)
		}
	}
	if _, err := s.Get(t.Context(), pin.Place); err != nil {
		t.Errorf("a canceled call changed the store: %v", err)
	}
}

// A command forgets a pin while the gateway has the same file.
func TestFileStoreIsShared(t *testing.T) {
	path := filepath.Join(t.TempDir(), "pins.db")
	gateway, command := NewFileStore(path), NewFileStore(path)
	pin := NewPin("1/r/i-a", BelievedFirstUse, newEd25519(t).PublicKey())
	if _, err := gateway.PutIfAbsent(t.Context(), pin); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, err %v; want 0600", info.Mode(), err)
	}
	if err := command.Delete(t.Context(), pin.Place); err != nil {
		t.Fatal(err)
	}
	if _, err := gateway.Get(t.Context(), pin.Place); !errors.Is(err, ErrNotPinned) {
		t.Errorf("the gateway still has it: %v", err)
	}
}

// A file that is no store must not look like one in which nothing is pinned.
func TestFileStoreFailsClosed(t *testing.T) {
	path := filepath.Join(t.TempDir(), "pins.db")
	if err := os.WriteFile(path, []byte("this is not a database, and longer than nothing\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := NewFileStore(path).Get(t.Context(), "1/r/i-a"); err == nil || errors.Is(err, ErrNotPinned) {
		t.Errorf("Get of a broken file: %v", err)
	}
	v := &Verifier{Store: NewFileStore(path)}
	if how, err := v.Check(t.Context(), "1/r/i-a", newEd25519(t).PublicKey(), nil); err == nil {
		t.Errorf("a broken store made a key believed: %s", how)
	}
}
