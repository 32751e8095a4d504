package source_test

import (
	"fmt"

	"github.com/lychgate/lychgate/authz/source"
)

func ExampleParse() {
	for _, entry := range []string{
		"git://git.example.com/team/zlib.git;protocol=https;branch=main",
		"git://ci:s3cret@git.example.com:22/team/zlib;protocol=ssh",
		"https://downloads.example.org/zlib-1.3.1.tar.gz",
		"file://fix-build.patch",
	} {
		fmt.Println(source.Parse(entry, ""))
	}
	// Output:
	// git+git.example.com/team/zlib
	// git+git.example.com/team/zlib
	// http+downloads.example.org/zlib-1.3.1.tar.gz
	// unresolvable(file:// entry: name the layer's repository)
}

func ExampleParsePattern() {
	public, err := source.ParsePattern("git.example.com/public/**")
	if err != nil {
		panic(err)
	}
	fmt.Println(public.Match(source.Parse("git://git.example.com/public/libfoo.git;protocol=https", "")))
	fmt.Println(public.Match(source.Parse("git://git.example.com/team/zlib.git;protocol=https", "")))
	_, err = source.ParsePattern("**")
	fmt.Println(err)
	// Output:
	// true
	// false
	// pattern "**": there is no path; write HOST/** for everything at a host
}
