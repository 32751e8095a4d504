package redisdb

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/lychgate/lychgate/authz/forge"
)

const (
	// MaxValue bounds a value, in bytes.
	MaxValue = 1 << 20
	// valueTimeout bounds a look at a value: a decision waits for it.
	valueTimeout = 100 * time.Millisecond
	// restFor is how long values are left alone after a look that failed.
	restFor = time.Second
	// lagging is how long after its time a value may still stand in Redis without a reason to wonder.
	lagging = 5 * time.Second
)

var (
	errAway    = errors.New("redis is away")
	errResting = errors.New("redis was slow a moment ago")
)

// Get returns the value under key, or nil. It fails at once while [DB.Run] has no contact, and in a tenth of a second at
// worst; then it fails at once for a second. See [forge.Shared].
func (db *DB) Get(ctx context.Context, key string) ([]byte, error) {
	c, err := db.ready()
	if err != nil {
		return nil, fmt.Errorf("look up a shared value: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, valueTimeout)
	defer cancel()
	name := db.valueName(key)
	// One byte more than there can be, so that a longer one is not taken for a whole one.
	text, err := db.client.GetRange(ctx, name, 0, 8+sealedBy+MaxValue).Result()
	if redis.HasErrorPrefix(err, "WRONGTYPE") {
		db.rejected("value")
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("look up a shared value: %w", db.rest(ctx, err))
	}
	if text == "" {
		return nil, nil
	}
	return db.openValue(c.life, name, []byte(text)), nil
}

// Put keeps value, of up to [MaxValue] bytes, under key. It takes as long as [DB.Get]. See [forge.Shared].
func (db *DB) Put(ctx context.Context, key string, value []byte, notAfter time.Time) error {
	if len(value) > MaxValue {
		return fmt.Errorf("share a value: it is %d bytes long, of %d at most", len(value), MaxValue)
	}
	c, err := db.ready()
	if err != nil {
		return fmt.Errorf("share a value: %w", err)
	}
	// A span and not a time: Redis's clock may be another.
	span := notAfter.Sub(db.now()).Truncate(time.Millisecond)
	if span <= 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, valueTimeout)
	defer cancel()
	name := db.valueName(key)
	if err := db.client.Set(ctx, name, db.sealValue(c.life, name, value, notAfter), span).Err(); err != nil {
		return fmt.Errorf("share a value: %w", db.rest(ctx, err))
	}
	return nil
}

// ready returns the contact in whose life values are kept.
func (db *DB) ready() (*contact, error) {
	c, now := db.contact.Load(), db.now()
	switch {
	case c == nil || now.Sub(c.at) > forge.Fence:
		return nil, errAway
	case now.Sub(db.start) < time.Duration(db.resting.Load()):
		return nil, errResting
	}
	return c, nil
}

// rest makes the next looks fail at once when this one failed for want of an answer.
func (db *DB) rest(ctx context.Context, err error) error {
	var refused redis.Error
	// A caller that has gone away says nothing about Redis.
	if !errors.As(err, &refused) && !errors.Is(context.Cause(ctx), context.Canceled) {
		db.resting.Store(int64(db.now().Sub(db.start) + restFor))
	}
	return err
}

// valueName hides what a value is about.
func (db *DB) valueName(key string) string {
	h := hmac.New(sha256.New, db.nameKey)
	h.Write([]byte(key))
	return db.values + base64.RawURLEncoding.EncodeToString(h.Sum(nil)[:24])
}

// sealValue makes what stands under a name:
//
//	value   = milliseconds(8, since 1970) sealed
//	context = life milliseconds name
func (db *DB) sealValue(life mark, name string, value []byte, notAfter time.Time) []byte {
	blob := binary.BigEndian.AppendUint64(make([]byte, 0, 8+sealedBy+len(value)), uint64(notAfter.UnixMilli()))
	return db.valueBox.seal(blob, valueContext(life, blob, name), value)
}

func valueContext(life mark, milliseconds []byte, name string) []byte {
	return append(append(append([]byte{}, life[:]...), milliseconds[:8]...), name...)
}

// openValue returns the value, or nil.
func (db *DB) openValue(life mark, name string, blob []byte) []byte {
	if len(blob) < 8 {
		db.rejected("value")
		return nil
	}
	value, ok := db.valueBox.open(valueContext(life, blob, name), blob[8:])
	if !ok {
		db.rejected("value")
		return nil
	}
	notAfter := time.UnixMilli(int64(binary.BigEndian.Uint64(blob)))
	late := db.now().Sub(notAfter)
	switch {
	case late >= lagging:
		db.rejected("value") // Redis has not forgotten it: somebody put it back
		return nil
	case late >= 0:
		return nil
	case value == nil:
		return []byte{}
	}
	return value
}
