package tokentest_test

import (
	"testing"

	"github.com/lychgate/lychgate/authz/authn"
	"github.com/lychgate/lychgate/authz/authn/tokentest"
)

func TestMemory(t *testing.T) {
	tokentest.Run(t, func(*testing.T) authn.TokenStore { return new(tokentest.Memory) })
}
