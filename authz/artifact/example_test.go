package artifact_test

import (
	"fmt"

	"github.com/lychgate/lychgate/authz/artifact"
)

func ExampleParse() {
	r, err := artifact.Parse(artifact.Zone{Name: "main"}, "b7/80/sstate%3Aboot%3A%3A2.0%2Bgit%3Ar0%3A%3A14%3A"+
		"b7808541030fd7105a268cf9ec778178d45720a31fa635d2975de57e569b4e24_populate_lic.tar.zst.siginfo")
	if err != nil {
		panic(err)
	}
	fmt.Println(r.Recipe, r.Version, r.Task, r.Part)
	fmt.Println(r.WithPart(artifact.Payload).Name())
	_, err = artifact.Parse(artifact.Zone{Name: "main"}, "../../etc/passwd")
	fmt.Println(err)
	// Output:
	// boot 2.0+git populate_lic siginfo
	// b7/80/sstate:boot::2.0+git:r0::14:b7808541030fd7105a268cf9ec778178d45720a31fa635d2975de57e569b4e24_populate_lic.tar.zst
	// not an artifact name: neither .tar.zst nor .tgz, with one of .siginfo and .sig at most
}
