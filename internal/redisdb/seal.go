package redisdb

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
)

// KeySize is the length of a key that nodes share, in bytes.
const KeySize = 32

const (
	saltSize  = 16
	nonceSize = 12
	tagSize   = 16
	// sealedBy is how much longer sealed text is.
	sealedBy = saltSize + nonceSize + tagSize
)

// The purposes keep what is sealed for one thing from being opened as another.
const (
	forEvents = "events"
	forNodes  = "nodes"
	forValues = "values"
	forNames  = "names"
)

// box seals what leaves the node and opens what comes back: AES-256-GCM. Each text has its own key, derived from a random
// salt: with one key for all, random nonces would have to be counted.
//
//	sealed = salt(16) nonce(12) ciphertext tag(16)
type box struct {
	keys [][]byte // the first seals, all open
}

// newBox derives the keys of a purpose. The prefix goes in, so that two gates that were given one key stay strangers.
func newBox(purpose, prefix string, keys [][]byte) (b box, err error) {
	for _, key := range keys {
		if len(key) != KeySize {
			return box{}, fmt.Errorf("a key is %d bytes long; make one of %d random bytes", len(key), KeySize)
		}
		derived, err := hkdf.Key(sha256.New, key, nil, "lychgate redis 1 "+purpose+" "+prefix, KeySize)
		if err != nil {
			return box{}, err
		}
		b.keys = append(b.keys, derived)
	}
	return b, nil
}

// seal appends sealed plain to dst. Whoever opens it shows the same context.
func (b box) seal(dst, context, plain []byte) []byte {
	at := len(dst)
	dst = append(dst, make([]byte, saltSize+nonceSize)...)
	rand.Read(dst[at:])
	return aead(b.keys[0], dst[at:at+saltSize]).Seal(dst, dst[at+saltSize:], plain, context)
}

// open returns what was sealed with the context, and whether it was.
func (b box) open(context, sealed []byte) ([]byte, bool) {
	if len(sealed) < sealedBy {
		return nil, false
	}
	salt, nonce, text := sealed[:saltSize], sealed[saltSize:saltSize+nonceSize], sealed[saltSize+nonceSize:]
	for _, key := range b.keys {
		if plain, err := aead(key, salt).Open(nil, nonce, text, context); err == nil {
			return plain, true
		}
	}
	return nil, false
}

// aead returns the cipher of one text. Its steps fail on lengths alone, which are fixed.
func aead(key, salt []byte) cipher.AEAD {
	own, err := hkdf.Expand(sha256.New, key, string(salt), KeySize)
	if err != nil {
		panic(err)
	}
	block, err := aes.NewCipher(own)
	if err != nil {
		panic(err)
	}
	gcm, err := cipher.NewGCM(block)
	if err != nil {
		panic(err)
	}
	return gcm
}
