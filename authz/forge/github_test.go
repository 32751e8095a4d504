package forge_test

import (
	"testing"

	"github.com/lychgate/lychgate/authz/forge/forgetest"
)

var (
	_ forgetest.World      = (*githubFake)(nil)
	_ forgetest.Blocker    = (*githubFake)(nil)
	_ forgetest.Keyring    = (*githubFake)(nil)
	_ forgetest.DeployKeys = (*githubFake)(nil)
	_ forgetest.Breaker    = (*githubFake)(nil)
)

func TestGitHubCloud(t *testing.T) {
	forgetest.Run(t, func(t *testing.T) forgetest.World { return openGitHub(t, true, nil) })
}

func TestGitHubServer(t *testing.T) {
	forgetest.Run(t, func(t *testing.T) forgetest.World { return openGitHub(t, false, nil) })
}
