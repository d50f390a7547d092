package gateway

import (
	"errors"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
)

func TestAKeyIsPushedOnceAMinuteForEachPersonAndUser(t *testing.T) {
	keys, err := newPushedKeys()
	if err != nil {
		t.Fatal(err)
	}
	pushed := map[string]pushedFor{} // for whom, by fingerprint
	get := func(whom pushedFor) {
		t.Helper()
		key, err := keys.of(whom).get(t.Context(), func(key ssh.PublicKey) error {
			pushed[ssh.FingerprintSHA256(key)] = whom
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		if of := pushed[ssh.FingerprintSHA256(key.PublicKey())]; of != whom {
			t.Errorf("%+v got the key of %+v", whom, of)
		}
	}
	alice := pushedFor{person: "alice", role: worldRole, place: "a/r/i", osUser: "ec2-user"}
	get(alice)
	get(alice)
	if len(pushed) != 1 {
		t.Errorf("%d pushes of a fresh key", len(pushed))
	}
	bob, root, elsewhere, other := alice, alice, alice, alice
	bob.person, root.osUser, elsewhere.place, other.role = "bob", "root", "a/r/j", "another"
	for _, whom := range []pushedFor{bob, root, elsewhere, other} {
		get(whom)
	}
	if len(pushed) != 5 {
		t.Errorf("%d keys where five were needed", len(pushed))
	}
	keys.of(alice).until = time.Now()
	get(alice)
	if len(pushed) != 6 {
		t.Errorf("%d pushes after the first was too old", len(pushed))
	}
	keys.forget()
	get(alice)
	if len(pushed) != 7 {
		t.Errorf("%d pushes after all was forgotten", len(pushed))
	}
}

func TestAPushThatFailedDoesNotCount(t *testing.T) {
	key := &pushedKey{turn: make(chan struct{}, 1)}
	failed := errors.New("throttled")
	if _, err := key.get(t.Context(), func(ssh.PublicKey) error { return failed }); !errors.Is(err, failed) {
		t.Errorf("told %v", err)
	}
	pushes := 0
	if _, err := key.get(t.Context(), func(ssh.PublicKey) error { pushes++; return nil }); err != nil || pushes != 1 {
		t.Errorf("%d pushes, %v", pushes, err)
	}
}
