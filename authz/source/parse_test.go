package source_test

import (
	"net/url"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/lychgate/lychgate/authz/source"
)

const rev = "50ff9644b9f2a2a4b2d5a4cbe2b9b3d0a8f1c2d3"

func TestParse(t *testing.T) {
	tests := []struct{ entry, want string }{
		// One repository has one name, however it is reached.
		{"git://git.example.com/team/zlib.git;protocol=https", "git+git.example.com/team/zlib"},
		{"git://git@git.example.com/team/zlib.git;protocol=ssh;branch=main", "git+git.example.com/team/zlib"},
		{"git://git.example.com/team/zlib;branch=main;name=x;destsuffix=y;nobranch=1;lfs=0", "git+git.example.com/team/zlib"},
		{"git://git.example.com/team/zlib.git/;protocol=https", "git+git.example.com/team/zlib"},
		{"git://GIT.Example.COM./team/zlib;protocol=http", "git+git.example.com/team/zlib"},
		{"git://git.example.com:443/team/zlib;protocol=https", "git+git.example.com/team/zlib"},
		{"git://git.example.com:80/team/zlib;protocol=http", "git+git.example.com/team/zlib"},
		{"git://git.example.com:22/team/zlib;protocol=ssh", "git+git.example.com/team/zlib"},
		{"git://git.example.com:9418/team/zlib", "git+git.example.com/team/zlib"},
		{"git://git.example.com:873/team/zlib;protocol=rsync", "git+git.example.com/team/zlib"},
		{"git://git.example.com:/team/zlib", "git+git.example.com/team/zlib"},
		{"git://ci:tok3n@git.example.com/team/zlib;protocol=https", "git+git.example.com/team/zlib"},
		{"git://git@git.example.com:team/zlib.git;protocol=ssh", "git+git.example.com/team/zlib"},
		{"git://git@git.example.com:/team/zlib.git;protocol=ssh", "git+git.example.com/team/zlib"},
		{"git@git.example.com:team/zlib.git", "git+git.example.com/team/zlib"},
		{"gitsm://git.example.com/team/zlib;protocol=https", "git+git.example.com/team/zlib"},
		{"gitannex://git.example.com/team/zlib;protocol=https", "git+git.example.com/team/zlib"},
		{"GIT://git.example.com/team/zlib", "git+git.example.com/team/zlib"},
		{"git+https://git.example.com/team/zlib.git", "git+git.example.com/team/zlib"},
		{"git+ssh://git@git.example.com/team/zlib.git", "git+git.example.com/team/zlib"},
		{"git://git.example.com/te%61m/%7Azlib;protocol=https", "git+git.example.com/team/zzlib"},

		// What differs stays apart.
		{"git://git.example.com:8443/team/zlib;protocol=https", "git+git.example.com:8443/team/zlib"},
		{"git://git.example.com:443/team/zlib;protocol=ssh", "git+git.example.com:443/team/zlib"},
		{"git://git.example.com/Team/Zlib", "git+git.example.com/Team/Zlib"},
		{"git://git.example.com/zlib.git.git", "git+git.example.com/zlib.git"},
		{"git://git.example.com/zlib.GIT", "git+git.example.com/zlib.GIT"},
		{"git://git.example.com/~alice/zlib;protocol=ssh", "git+git.example.com/~alice/zlib"},
		{"git://git.example.com/scm/team/zlib", "git+git.example.com/scm/team/zlib"},
		{"git://git@git.example.com:2222team/zlib;protocol=ssh", "git+git.example.com/2222team/zlib"},
		{"git@git.example.com:2222/zlib", "git+git.example.com/2222/zlib"},

		// Hosts.
		{"git://bücher.example/z", "git+xn--bcher-kva.example/z"},
		{"git://BÜCHER.example。/z", "git+xn--bcher-kva.example/z"},
		{"git://xn--bcher-kva.example/z", "git+xn--bcher-kva.example/z"},
		{"git://git_1.corp/z", "git+git_1.corp/z"},
		{"git://localhost/z", "git+localhost/z"},
		{"git://192.0.2.1:22/z;protocol=ssh", "git+192.0.2.1/z"},
		{"git://[2001:DB8::0:1]:2222/z;protocol=ssh", "git+[2001:db8::1]:2222/z"},
		{"git://git@[2001:db8::1]/z;protocol=ssh", "git+[2001:db8::1]/z"},
		{"git@[2001:db8::1]:z", "git+[2001:db8::1]/z"},

		// Paths: NFC, so both spellings of é are one.
		{"git://h.example/caf%C3%A9", "git+h.example/café"},
		{"git://h.example/cafe%CC%81", "git+h.example/café"},
		{"https://h.example/a%20b.tar.gz", "http+h.example/a b.tar.gz"},
		{"https://h.example/g++-1.0~rc1.tar.gz", "http+h.example/g++-1.0~rc1.tar.gz"},
		{"https://h.example/x.git", "http+h.example/x.git"},

		// Every other scheme.
		{"http://h.example:80/f.tgz", "http+h.example/f.tgz"},
		{"https://u:p@h.example:443/f.tgz;sha256sum=00ff", "http+h.example/f.tgz@00ff"},
		{"ftp://h.example:21/pub/f.tgz", "http+h.example/pub/f.tgz"},
		{"ftps://h.example:990/pub/f.tgz", "http+h.example/pub/f.tgz"},
		{"ssh://u@h.example:22/srv/f.tgz", "ssh+h.example/srv/f.tgz"},
		{"sftp://u:p@h.example/srv/f.tgz", "ssh+h.example/srv/f.tgz"},
		{"svn://h.example/repos;module=proj/trunk;protocol=https;rev=42", "svn+h.example/repos/proj/trunk@42"},
		{"svn://h.example:3690/;module=trunk", "svn+h.example/trunk"},
		{"svn://u@h.example:22/r;module=trunk;protocol=svn+ssh", "svn+h.example/r/trunk"},
		{"hg://h.example/repos;module=proj;protocol=https", "hg+h.example/repos/proj"},
		{"p4://U:P@depot/main/src/...", "p4+depot/main/src/..."},
		{"p4://p4.example:1666/depot/src/...", "p4+p4.example/depot/src/..."},
		{"ccrc://cc.example/ccrc;vob=/proj_vob;module=/src", "ccrc+cc.example/ccrc/proj_vob"},
		{"npm://registry.npmjs.org;package=@scope/pkg;version=1.2.3", "npm+registry.npmjs.org/@scope/pkg@1.2.3"},
		{"npm://npm.example/api/npm/;package=pkg;version=1.2.3-rc.1+b", "npm+npm.example/api/npm/pkg@1.2.3-rc.1+b"},
		{"crate://crates.io/glob/0.2.11", "crate+crates.io/glob@0.2.11"},
		{"crate://crates.example/api/glob/0.2.11;name=x", "crate+crates.example/api/glob@0.2.11"},
		{"gomod://golang.org/x/net;version=v0.9.0;sha256sum=00", "gomod+golang.org/x/net@v0.9.0"},
		{"gomod://go4.org;version=v0.1.0", "gomod+go4.org/@v0.1.0"},
		{"gomodgit://golang.org/x/net;version=v0.9.0;repo=go.googlesource.com/net;srcrev=" + rev, "git+go.googlesource.com/net@" + rev},
		{"gomodgit://github.com/a/b;version=v1.0.0", "git+github.com/a/b"},
		{"s3://bucket/dir/f.tgz", "s3+bucket.s3.amazonaws.com/dir/f.tgz"},
		{"gs://bucket/dir/f.tgz", "s3+bucket.storage.googleapis.com/dir/f.tgz"},
		{"az://acct.blob.core.windows.net/container/f.tgz", "s3+acct.blob.core.windows.net/container/f.tgz"},

		// Revisions of the entry itself.
		{"git://h.example/z;rev=" + rev, "git+h.example/z@" + rev},
		{"git://h.example/z;tag=v1.0/rc1", "git+h.example/z@v1.0/rc1"},
	}
	for _, tt := range tests {
		t.Run(tt.entry, func(t *testing.T) {
			got := source.Parse(tt.entry, "")
			if got.String() != tt.want {
				t.Errorf("got %v, want %s", got, tt.want)
			}
			if err := got.Check(); err != nil {
				t.Errorf("%+v: %v", got, err)
			}
			if got := source.Parse(tt.entry, rev); got.Rev != rev {
				t.Errorf("the resolved revision does not win: %v", got)
			}
		})
	}
}

func TestParseUnresolvable(t *testing.T) {
	tests := []struct{ entry, reason string }{
		{"", "of the form"},
		{"zlib", "of the form"},
		{"file:fix.patch", "of the form"},
		{"git:team/zlib", "of the form"},
		{"://h.example/z", "type of the entry"},
		{"gopher://h.example/z", "type of the entry"},
		{"file://fix.patch", "layer's repository"},
		{"file:///srv/fix.patch", "layer's repository"},
		{"npmsw://npm-shrinkwrap.json", "shrinkwrap"},
		{"repo://h.example/manifest;protocol=https", "manifest"},
		{"git:///srv/zlib.git", "disk"},
		{"git://h.example/srv/zlib.git;protocol=file", "disk"},
		{"hg://h.example/z;module=m;protocol=file", "disk"},
		{"git://h.example/z;protocol=gopher", "protocol"},
		{"git://h.example/z;protocol=", "protocol"},
		{"git://h.example/z;protocol=https;protocol=file", "twice"},
		{"git://h.example/${BPN}", "unexpanded"},
		{"${MIRROR}/z.tar.gz", "unexpanded"},
		{"https://h.example/z;downloadfilename=${PV}", "unexpanded"},
		{"git://h.example/" + strings.Repeat("a", 4096), "longer"},
		{"git://h.example/" + strings.Repeat("a", 1025), "path is too long"},

		{"git://h.example", "no path"},
		{"git://h.example/", "no path"},
		{"git://h.example/.git", "no path"},
		{"https://h.example", "no path"},
		{"git://h.example/team//zlib", "segment"},
		{"git://h.example//team/zlib", "segment"},
		{"git://h.example/team/zlib//", "segment"},
		{"git://h.example/team/.git", "segment"},
		{"git://h.example/team/../zlib", "segment"},
		{"git://h.example/team/./zlib", "segment"},
		{"git://h.example/..", "segment"},
		{"git://h.example/team/%2e%2e/zlib", "segment"},
		{"git://h.example/team/...git", "segment"},
		{"git://h.example/team/..git", "segment"},
		{"https://h.example/dir/", "segment"},
		{"git://h.example/team%2fzlib", "escape"},
		{"git://h.example/team%2Fzlib", "escape"},
		{"git://h.example/team%5Czlib", "escape"},
		{"git://h.example/team%zz", "escape"},
		{"git://h.example/team%", "escape"},
		{"git://h.example/team%2", "escape"},
		{"git://h.example/team%252fzlib", "holds"},
		{"git://h.example/team%25zlib", "holds"},
		{"git://h.example/team%00", "holds"},
		{"git://h.example/team%0a", "holds"},
		{"git://h.example/team%7f", "holds"},
		{"git://h.example/team%ff", "holds"},
		{"git://h.example/team%3fx", "holds"},
		{"git://h.example/team%23x", "holds"},
		{"git://h.example/team%3bx", "holds"},
		{"git://h.example/a%E2%80%AEb", "holds"},
		{"git://h.example/a%E2%80%8Bb", "holds"},
		{"git@h.example:a%2fb", "holds"},
		{"git@h.example:a%20b", "holds"},

		{"git://h.example/team/zlib.wiki.git;protocol=https", "wiki"},
		{"git://h.example/team/zlib.wiki", "wiki"},
		{"git://h.example/team/zlib.Wiki.git", "wiki"},
		{"git://h.example/team/zlib.wiki.GIT", "wiki"},
		{"git@h.example:team/zlib.wiki.git", "wiki"},

		{`git://h.example\@evil.example/z`, "backslash"},
		{`git://h.example/team\zlib`, "backslash"},
		{"git://h.example /z", "white space"},
		{"git://h.example/z\n", "white space"},
		{"git://h.example/z\x00", "white space"},
		{"git://h.example/\xff", "bad UTF-8"},
		{"git://h.example#@evil.example/z", "? or #"},
		{"git://h.example?@evil.example/z", "? or #"},
		{"https://h.example/f?token=x", "? or #"},
		{"https://h.example/f#x", "? or #"},
		{"git://a@b@h.example/z", "more than one @"},
		{"git://good.example@@evil.example/z", "more than one @"},
		{"a@b@h.example:z", "more than one @"},
		{"git://u:p@/z;protocol=ssh", "host"},
		{"git://@/z", "host"},
		{"git://.h.example/z", "host"},
		{"git://h..example/z", "host"},
		{"git://h.example../z", "host"},
		{"git://-h.example/z", "host"},
		{"git://h-.example/z", "host"},
		{"git://-oProxyCommand=x/z;protocol=ssh", "host"},
		{"git://h%2eexample/z", "host"},
		{"git://h,example/z", "host"},
		{"git://h.example，evil/z", "host"},
		{"git://xn--zzzzzzzz.example/z", "host"},
		{"git://" + strings.Repeat("a", 64) + ".example/z", "host"},
		{"git://" + strings.Repeat("a.", 127) + "example/z", "host"},
		{"git://127.1/z", "host"},
		{"git://0x7f000001/z", "host"},
		{"git://2130706433/z", "host"},
		{"git://127.0.0.01/z", "host"},
		{"git://1.2.3.4.5/z", "host"},
		{"git://[::1/z", "host"},
		{"git://[::1]x/z", "host"},
		{"git://[fe80::1%25eth0]/z", "host"},
		{"git://[127.0.0.1]/z", "host"},
		{"git://[]/z", "host"},
		{"git://h.example:0/z", "port"},
		{"git://h.example:65536/z", "port"},
		{"git://h.example:022/z;protocol=ssh", "port"},
		{"git://h.example:team/z;protocol=https", "port"},
		{"git://h.example:22:22/z", "port"},
		{"git://h.example:٢٢/z", "port"},

		// Fetchers that look for the user name further right.
		{"ssh://pub.example/dir@secret.example/f", "after the host"},
		{"ssh://pub.example/dir;x@secret.example/f", "after the host"},
		{"ssh://pub.example/dir;x=y@secret.example/f", "after the host"},
		{"p4://pub.example/dir@secret.example/f", "after the host"},

		{"p4://Depot/main/src", "upper case"},
		{"p4://u:P@Depot/main/src", "upper case"},
		{"gomod://u:p@h.example/m;version=v1", "module path"},
		{"gomod://u:12;p@h.example/m", "module path"},
		{"gomod://user;p@h.example/m", "module path"},
		{"gomod://-h.example;version=v1", "host"},
		{"gomod://h.example/../m;version=v1", "segment"},
		{"gomodgit://h.example/m;protocol=file", "disk"},
		{"gomodgit://h.example/m;protocol=svn", "protocol"},
		{"gomodgit://h.example/m;repo=u:p@h.example/a%2fb", "escape"},
		{"crate://crates.io/glob/1.0;protocol=ftp", "protocol"},
		{"crate://crates.io/glob//1.0", "segment"},
		{"https://h.example/a%2fb", "escape"},
		{"svn://h.example/a%2fb;module=m", "escape"},
		{"svn://h..example/r;module=m", "host"},
		{"git://" + strings.Repeat("a", 1025) + "/z", "host"},

		{"svn://h.example/r", "parameter"},
		{"svn://h.example/r;module=/", "parameter"},
		{"svn://h.example/r;module=../other", "segment"},
		{"svn://h.example/r;module=a%2fb", "holds"},
		{"hg://h.example/r", "parameter"},
		{"ccrc://h.example/r", "parameter"},
		{"npm://registry.npmjs.org;version=1.0.0", "parameter"},
		{"npm://registry.npmjs.org;package=../x", "segment"},
		{"crate://crates.io/glob", "parameter"},
		{"s3://Bucket/f", "bucket"},
		{"s3://u:p@bucket/f", "bucket"},
		{"s3://bucket:443/f", "bucket"},
		{"gs:///f", "bucket"},
		{"gomodgit://h.example/m;repo=h.example;version=v1", "no path"},
		{"git://h.example/z;rev=a b", "white space"},
		{"git://h.example/z;rev=" + strings.Repeat("a", 257), "revision"},
		{"git://h.example/z;rev=u@h", "revision"},
		{"a/b@c:d", "of the form"},
		{"a:b@c:d", "of the form"},
		{"u@host/dir:x", "of the form"},
		{"u@host", "of the form"},
	}
	for _, tt := range tests {
		got := source.Parse(tt.entry, "")
		if got.Type != source.Unresolvable || !strings.Contains(got.Reason, tt.reason) {
			t.Errorf("Parse(%.80q) = %v, want a reason with %q", tt.entry, got, tt.reason)
		}
		if err := got.Check(); err != nil {
			t.Errorf("Parse(%.80q) = %+v: %v", tt.entry, got, err)
		}
	}
	if got := source.Parse("git://h.example/z", "a revision"); got.Type != source.Unresolvable {
		t.Errorf("a revision with a space gives %v", got)
	}
}

func TestParseClone(t *testing.T) {
	tests := []struct{ url, want string }{
		{"https://ci:tok3n@git.example.com/team/layer.git", "git+git.example.com/team/layer@" + rev},
		{"ssh://git@git.example.com:22/team/layer.git", "git+git.example.com/team/layer@" + rev},
		{"ssh://git@git.example.com:2222/team/layer", "git+git.example.com:2222/team/layer@" + rev},
		{"git@git.example.com:team/layer.git", "git+git.example.com/team/layer@" + rev},
		{"git.example.com:team/layer.git", "git+git.example.com/team/layer@" + rev},
		{"git+ssh://git.example.com/team/layer", "git+git.example.com/team/layer@" + rev},
		{"https://git.example.com/team/a;user=u;pswd=p", "unresolvable"},
		{"https://git.example.com/team/layer?x", "unresolvable"},
		{"https://git.example.com/team/ layer", "unresolvable"},
		{"file:///srv/layer.git", "unresolvable"},
		{"ssh://git@git.example.com:team/layer.git", "unresolvable"},
		{"gopher://git.example.com/team/layer", "unresolvable"},
		{"../layer.git", "unresolvable"},
		{"/srv/layer.git", "unresolvable"},
		{"./a:b", "unresolvable"},
		{"layer", "unresolvable"},
		{"", "unresolvable"},
	}
	for _, tt := range tests {
		got := source.ParseClone(tt.url, rev)
		if text := got.String(); text != tt.want && (tt.want != "unresolvable" || got.Type != source.Unresolvable) {
			t.Errorf("ParseClone(%q) = %v, want %s", tt.url, got, tt.want)
		}
	}
}

func TestHasSubmodules(t *testing.T) {
	for entry, want := range map[string]bool{
		"gitsm://h.example/z;protocol=https": true,
		"GITSM://h.example/z":                true,
		"git://h.example/z":                  false,
		"git://h.example/gitsm://z":          false,
		"gitsm":                              false,
		"":                                   false,
	} {
		if got := source.HasSubmodules(entry); got != want {
			t.Errorf("HasSubmodules(%q) = %v", entry, got)
		}
	}
}

// TestPasswords plants a password wherever a URL of any scheme can hold one and wants no trace of it.
func TestPasswords(t *testing.T) {
	const password = "hunter2-Planted"
	schemes := []string{
		"git", "gitsm", "gitannex", "git+https", "git+ssh", "http", "https", "ftp", "ssh", "sftp", "svn", "hg", "p4", "ccrc",
		"npm", "crate", "gomod", "gomodgit", "s3", "gs", "az", "repo", "npmsw", "file", "rsync", "x",
	}
	rapid.Check(t, func(t *rapid.T) {
		user := rapid.SampledFrom([]string{"", "git", "a%40b", "a:b", "ü"}).Draw(t, "user")
		host := rapid.SampledFrom([]string{"h.example", "h.example:22", "h.example:team", "[::1]", "", "-x", "a@b", "H..", "é.example"}).Draw(t, "host")
		path := rapid.SampledFrom([]string{"/team/zlib.git", "", "/", "/a/1.0", "/a%2fb", "/../x", "/x.wiki.git"}).Draw(t, "path")
		params := rapid.SampledFrom([]string{
			"", ";protocol=ssh", ";protocol=https", ";module=m;package=p;vob=v", ";user=u;pswd=" + password, ";protocol=" + password,
			";repo=u:" + password + "@h.example/x", ";x;x",
		}).Draw(t, "params")
		userinfo := user + ":" + password + "@"
		entry := rapid.SampledFrom(schemes).Draw(t, "scheme") + "://" + userinfo + host + path + params
		if rapid.Bool().Draw(t, "scp-like") {
			entry = userinfo + host + ":" + path
		}
		for _, s := range []source.Source{source.Parse(entry, ""), source.ParseClone(entry, "")} {
			if text, err := source.NewSet([]source.Source{s}).MarshalText(); err != nil || strings.Contains(string(text), password) {
				t.Fatalf("%q gives %+v", entry, s)
			}
		}
	})
}

// FuzzParse wants of any entry: no panic, a source in its one form, the same one for each spelling of it, and nothing of
// what stands where a URL has its user name.
func FuzzParse(f *testing.F) {
	for _, entry := range []string{
		"git://git@git.example.com:team/zlib.git;protocol=ssh;branch=main", "gitsm://u:p@[2001:db8::1]:22/a%20b;protocol=ssh",
		"git@git.example.com:team/zlib.git", "svn://h.example/r;module=a/b", "npm://registry.npmjs.org;package=@s/p;version=1.0.0",
		"crate://crates.io/glob/0.2.11", "gomodgit://x/y;repo=h.example/z", "https://BÜCHER.example。:443/f%C3%A9", "s3://b/k",
		"p4://u:p@d.example/...", "file://x", "git://xn--bcher-kva.example/z.git/", "gs://b.c/k", "az://a.example/k",
	} {
		f.Add(entry, rev, "s3cr3t-planted")
	}
	f.Fuzz(func(t *testing.T, entry, rev, password string) {
		for _, s := range []source.Source{source.Parse(entry, rev), source.ParseClone(entry, rev)} {
			checkParsed(t, entry, s)
		}
		if planted, ok := plant(entry, password); ok {
			for _, s := range []source.Source{source.Parse(planted, ""), source.ParseClone(planted, "")} {
				if strings.Contains(s.String()+s.Repo, password) {
					t.Errorf("%q gives %+v, which holds the password", planted, s)
				}
			}
		}
		source.HasSubmodules(entry)
	})
}

func checkParsed(t *testing.T, entry string, s source.Source) {
	t.Helper()
	if err := s.Check(); err != nil {
		t.Errorf("Parse(%q) = %+v: %v", entry, s, err)
	}
	if s.Type != source.Git {
		return
	}
	if strings.HasSuffix(s.Locator.Host, ":873") || strings.Contains(s.Locator.Path, "${") {
		return // the next line would mean something else
	}
	// What was normalised once stays as it is.
	path := (&url.URL{Path: s.Locator.Path}).EscapedPath()
	if again := source.Parse("git://"+s.Locator.Host+"/"+path+".git;protocol=rsync", s.Rev); again != s {
		t.Errorf("Parse(%q) = %+v, and again %+v", entry, s, again)
	}
}

// plant puts a password into the authority of an entry, if it is one that a URL can hold there and nowhere else.
func plant(entry, password string) (string, bool) {
	scheme, rest, found := strings.Cut(entry, "://")
	plain := strings.Trim(password, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.") == ""
	if !found || !plain || len(password) < 8 || strings.Contains(strings.ToLower(entry), strings.ToLower(password)) {
		return "", false
	}
	reasons := "the entry is of no form and file:// npmsw:// repo:// unresolvable"
	if strings.Contains(reasons, password) || strings.Contains(".s3.amazonaws.com.storage.googleapis.com", password) {
		return "", false
	}
	return scheme + "://user:" + password + "@" + rest, true
}
