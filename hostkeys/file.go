package hostkeys

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"go.etcd.io/bbolt"
)

const lockWait = 5 * time.Second

var pinBucket = []byte("pins")

// FileStore keeps pins in a bbolt file, which it opens for each call and closes again: bbolt's lock belongs to whoever has the file open, and a command
// that forgets a pin must work beside a running gateway. A pin is read once per connection, so this costs nothing that counts.
type FileStore struct {
	path string
	mu   sync.RWMutex // within the process; the file's lock, which is polled, is for others
}

// NewFileStore makes a store of the file at path. The file comes with the first pin, readable by its owner only.
func NewFileStore(path string) *FileStore { return &FileStore{path: path} }

// Get implements PinStore.
func (s *FileStore) Get(ctx context.Context, place string) (pin Pin, err error) {
	err = s.view(ctx, func(pins *bbolt.Bucket) error {
		pin, err = decode(place, pins.Get([]byte(place)))
		return err
	})
	if errors.Is(err, fs.ErrNotExist) {
		err = ErrNotPinned
	}
	return pin, err
}

// PutIfAbsent implements PinStore.
func (s *FileStore) PutIfAbsent(ctx context.Context, pin Pin) (inForce Pin, err error) {
	err = s.update(ctx, func(pins *bbolt.Bucket) error {
		inForce, err = decode(pin.Place, pins.Get([]byte(pin.Place)))
		if !errors.Is(err, ErrNotPinned) {
			return err
		}
		inForce = pin.clone()
		return put(pins, pin)
	})
	return inForce, err
}

// Replace implements PinStore.
func (s *FileStore) Replace(ctx context.Context, pin Pin) error {
	return s.update(ctx, func(pins *bbolt.Bucket) error { return put(pins, pin) })
}

// Delete implements PinStore.
func (s *FileStore) Delete(ctx context.Context, place string) error {
	return s.update(ctx, func(pins *bbolt.Bucket) error {
		if pins.Get([]byte(place)) == nil {
			return ErrNotPinned
		}
		return pins.Delete([]byte(place))
	})
}

// List implements PinStore.
func (s *FileStore) List(ctx context.Context) ([]Pin, error) {
	list := []Pin{}
	err := s.view(ctx, func(pins *bbolt.Bucket) error {
		return pins.ForEach(func(place, value []byte) error {
			pin, err := decode(string(place), value)
			list = append(list, pin)
			return err
		})
	})
	if errors.Is(err, fs.ErrNotExist) {
		return list, nil
	}
	return list, err // bbolt keeps keys sorted
}

// decode gives ErrNotPinned for nil. A pin that cannot be read is an error and not an absence: it fails closed.
func decode(place string, value []byte) (Pin, error) {
	if value == nil {
		return Pin{}, ErrNotPinned
	}
	var pin Pin
	if err := json.Unmarshal(value, &pin); err != nil {
		return Pin{}, fmt.Errorf("the pin of %s cannot be read: %w", place, err)
	}
	return pin, nil
}

func put(pins *bbolt.Bucket, pin Pin) error {
	value, err := json.Marshal(pin)
	if err != nil {
		return err
	}
	return pins.Put([]byte(pin.Place), value)
}

// view reads. Where there is no file, or one that holds nothing yet, the error is fs.ErrNotExist.
func (s *FileStore) view(ctx context.Context, do func(*bbolt.Bucket) error) error {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if info, err := os.Stat(s.path); err != nil {
		return err
	} else if info.Size() == 0 { // just made by another process, which is about to lock and fill it
		return fs.ErrNotExist
	}
	return s.open(ctx, &bbolt.Options{ReadOnly: true}, func(db *bbolt.DB) error {
		return db.View(func(tx *bbolt.Tx) error {
			pins := tx.Bucket(pinBucket)
			if pins == nil {
				return fs.ErrNotExist
			}
			return do(pins)
		})
	})
}

func (s *FileStore) update(ctx context.Context, do func(*bbolt.Bucket) error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := os.MkdirAll(filepath.Dir(s.path), 0o700); err != nil {
		return err
	}
	return s.open(ctx, &bbolt.Options{}, func(db *bbolt.DB) error {
		return db.Update(func(tx *bbolt.Tx) error {
			pins, err := tx.CreateBucketIfNotExists(pinBucket)
			if err != nil {
				return err
			}
			return do(pins)
		})
	})
}

// open waits for the file's lock as long as ctx allows and never longer than lockWait.
func (s *FileStore) open(ctx context.Context, options *bbolt.Options, do func(*bbolt.DB) error) (err error) {
	if err := ctx.Err(); err != nil {
		return err
	}
	options.Timeout = lockWait
	if deadline, ok := ctx.Deadline(); ok {
		options.Timeout = max(time.Millisecond, min(lockWait, time.Until(deadline)))
	}
	db, err := bbolt.Open(s.path, 0o600, options)
	if err != nil {
		return fmt.Errorf("open the pinned host keys in %s: %w", s.path, err)
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	return do(db)
}
