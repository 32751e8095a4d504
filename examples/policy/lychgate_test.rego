package lychgate_test

import data.lychgate

read := {
	"action": "read",
	"zone": "vault",
	"principal": {"groups": ["vault-team"], "roles": []},
	"artifact": {"zone": "vault", "recorded": true, "sources": [{"type": "git", "access": "read", "public": false}]},
}

outsider := json.patch(read, [{"op": "replace", "path": "/principal/groups", "value": ["team-a"]}])

with_sources(sources) := json.patch(read, [{"op": "replace", "path": "/artifact/sources", "value": sources}])

write := {
	"action": "write",
	"zone": "main",
	"principal": {"groups": [], "roles": ["writer:main"]},
	"artifact": {"zone": "main", "signer": "ci-main"},
}

config := {"zones": {"main": {"signers": ["ci-main"]}}}

test_member if lychgate.allow with input as read

test_outsider if {
	decision := lychgate.decision with input as outsider
	not decision.allow
	"zone_closed: vault is not for this principal" in decision.reasons
}

test_outsider_of_another_zone if {
	lychgate.allow with input as json.patch(outsider, [{"op": "replace", "path": "/artifact/zone", "value": "main"}])
}

test_outsider_through_another_zone if {
	not lychgate.allow with input as json.patch(outsider, [{"op": "replace", "path": "/zone", "value": "review"}])
}

test_unknown_zone if {
	not lychgate.allow with input as json.patch(read, [{"op": "replace", "path": "/artifact/zone", "value": "new"}])
}

test_member_without_right if not lychgate.allow with input as with_sources([{"type": "git", "access": "none", "public": false}])

test_public if lychgate.allow with input as with_sources([{"type": "git", "access": "none", "public": true}])

test_unresolvable if not lychgate.allow with input as with_sources([{"type": "unresolvable", "access": "read", "public": true}])

test_no_sources if not lychgate.allow with input as with_sources([])

test_not_recorded if {
	not lychgate.allow with input as json.patch(read, [{"op": "replace", "path": "/artifact/recorded", "value": false}])
}

test_writer if lychgate.allow with input as write with data.lychgate.config as config

test_signer_of_another_zone if {
	other := json.patch(write, [{"op": "replace", "path": "/artifact/signer", "value": "ci-review"}])
	not lychgate.allow with input as other with data.lychgate.config as config
}

test_writer_of_another_zone if {
	other := json.patch(write, [{"op": "replace", "path": "/zone", "value": "vault"}])
	not lychgate.allow with input as other with data.lychgate.config as config
}

test_begin if lychgate.allow with input as json.patch(write, [{"op": "replace", "path": "/action", "value": "begin"}])

test_admin_needs_its_role if {
	not lychgate.allow with input as json.patch(write, [{"op": "replace", "path": "/action", "value": "admin"}])
}
