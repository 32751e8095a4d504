package lychgate_test

import data.lychgate

# A read by alice of an artifact with two readable sources: every test changes one thing.
base := {
	"action": "read",
	"door": "https",
	"zone": "main",
	"principal": {
		"forge": "git.example.com", "id": "42", "name": "alice", "kind": "human",
		"groups": ["platform"], "claims": {}, "roles": [],
	},
	"artifact": {
		"kind": "sstate", "zone": "main", "path": "ab/cd/x", "part": "payload", "hash": "abcd", "recipe": "zlib",
		"version": "1.3", "arch": "core2-64", "task": "package", "signer": "ci-main", "recorded": true,
		"sources": [readable, readable], "inputs": [readable, readable],
	},
	"now_minute": 29567890,
}

readable := {
	"type": "git", "host": "git.example.com", "path": "team/zlib", "repo": "git.example.com:17", "rev": "1f2e",
	"public": false, "access": "read",
}

closed := object.union(readable, {"path": "teamA/secret-tool", "access": "none"})

unknown := object.union(readable, {"path": "teamA/new", "access": "unknown"})

open := {
	"type": "http", "host": "zlib.net", "path": "zlib-1.3.tar.gz", "repo": "", "rev": "aa",
	"public": true, "access": "unknown",
}

unresolvable := {
	"type": "unresolvable", "host": "", "path": "", "repo": "", "rev": "", "public": false, "access": "none",
	"reason": "unknown scheme",
}

with_sources(list) := object.union(base, {"artifact": {"sources": list}})

with_inputs(list) := object.union(base, {"artifact": {"inputs": list}})

with_member(name, value) := object.union(base, {name: value})

without_source_member(name) := with_sources([object.remove(readable, [name])])

signers := {"main": {"signers": ["ci-main", "alice@example.com"]}}

write := object.union(base, {
	"action": "write",
	"principal": {"roles": ["writer:main"]},
	"write": {"statement": {"signer": "ci-main"}},
})

begin := object.union(base, {"action": "begin", "principal": {"roles": ["writer:main"]}})

report := object.union(base, {"action": "report", "principal": {"roles": ["writer:main"]}, "artifact": {"signer": ""}})

administer := object.union(base, {"action": "admin", "principal": {"roles": ["admin:main"]}})

# The boolean and the object agree on every document the tests use.
agree(document) if {
	allow := lychgate.allow with input as document
	decision := lychgate.decision with input as document
	allow == decision.allow
	count(decision.reasons) > 0
}

# Reads that are allowed.

test_read_all_readable if lychgate.allow with input as base

test_stat_all_readable if lychgate.allow with input as with_member("action", "stat")

test_list_all_readable if lychgate.allow with input as with_member("action", "list")

test_read_all_public if lychgate.allow with input as with_sources([open, open])

test_read_public_and_readable if lychgate.allow with input as with_sources([open, readable])

test_read_one_source if lychgate.allow with input as with_sources([readable])

test_read_through_any_door if {
	some door in ["https", "ssh", "hash"]
	lychgate.allow with input as with_member("door", door)
}

test_read_ignores_roles if lychgate.allow with input as object.union(base, {"principal": {"roles": ["writer:other"]}})

test_read_without_signers_configured if lychgate.allow with input as base with data.lychgate.config as {}

test_read_allow_says_why if {
	decision := lychgate.decision with input as base
	decision.rule == "read_sources"
	decision.reasons == ["sources_readable: every source is public or readable"]
}

# Reads that are denied.

test_read_no_access if not lychgate.allow with input as with_sources([closed])

test_read_one_of_many_closed if not lychgate.allow with input as with_sources([readable, closed, open])

test_read_unknown_access if not lychgate.allow with input as with_sources([readable, unknown])

test_read_no_sources if not lychgate.allow with input as with_sources([])

test_read_not_recorded if not lychgate.allow with input as object.union(base, {"artifact": {"recorded": false}})

test_read_recorded_not_boolean if not lychgate.allow with input as object.union(base, {"artifact": {"recorded": "yes"}})

test_read_unresolvable if not lychgate.allow with input as with_sources([readable, unresolvable])

test_read_unresolvable_marked_public if {
	bad := object.union(unresolvable, {"public": true})
	not lychgate.allow with input as with_sources([bad])
}

test_read_unresolvable_marked_readable if {
	bad := object.union(unresolvable, {"access": "read"})
	not lychgate.allow with input as with_sources([bad])
}

test_read_access_write_is_not_read if {
	odd := object.union(readable, {"access": "write"})
	not lychgate.allow with input as with_sources([odd])
}

test_read_public_not_boolean if {
	odd := object.union(closed, {"public": "true"})
	not lychgate.allow with input as with_sources([odd])
}

test_read_source_without_access if not lychgate.allow with input as without_source_member("access")

test_read_source_without_type if not lychgate.allow with input as without_source_member("type")

test_read_source_not_an_object if not lychgate.allow with input as with_sources([readable, "team/zlib"])

test_read_source_null if not lychgate.allow with input as with_sources([null])

test_read_sources_not_a_list if not lychgate.allow with input as with_sources("git.example.com/team/zlib")

test_read_sources_missing if {
	document := object.union(
		object.remove(base, ["artifact"]),
		{"artifact": object.remove(base.artifact, ["sources"])},
	)
	not lychgate.allow with input as document
}

test_read_artifact_missing if not lychgate.allow with input as object.remove(base, ["artifact"])

test_empty_input if not lychgate.allow with input as {}

test_no_input if not lychgate.allow

test_unknown_action if not lychgate.allow with input as with_member("action", "delete")

test_action_in_capitals if not lychgate.allow with input as with_member("action", "READ")

test_admin_role_does_not_read if {
	document := object.union(with_sources([closed]), {"principal": {"roles": ["admin:main", "writer:main"]}})
	not lychgate.allow with input as document
}

# Why not.

test_reason_unreadable if {
	decision := lychgate.decision with input as with_sources([readable, closed])
	decision.rule == "read_sources"
	decision.reasons == ["source_unreadable: git.example.com/teamA/secret-tool (access none)"]
}

test_reason_unknown if {
	decision := lychgate.decision with input as with_sources([unknown])
	decision.reasons == ["source_unreadable: git.example.com/teamA/new (access unknown)"]
}

test_reason_unresolvable if {
	decision := lychgate.decision with input as with_sources([unresolvable])
	decision.reasons == ["unresolvable_source: unknown scheme"]
}

test_reason_unresolvable_without_words if {
	decision := lychgate.decision with input as with_sources([object.remove(unresolvable, ["reason"])])
	decision.reasons == ["unresolvable_source: no reason given"]
}

test_reason_no_sources if {
	decision := lychgate.decision with input as with_sources([])
	decision.reasons == ["no_sources: its statement names no source"]
}

test_reason_not_recorded if {
	document := object.union(with_sources([]), {"artifact": {"recorded": false}})
	decision := lychgate.decision with input as document
	decision.reasons == ["not_recorded: nothing was published under this name"]
}

test_reason_unknown_action if {
	decision := lychgate.decision with input as with_member("action", "delete")
	decision.rule == "default_deny"
	not decision.allow
}

test_reasons_are_few if {
	many := [s | some i in numbers.range(1, 100); s := object.union(closed, {"path": sprintf("team/%03d", [i])})]
	decision := lychgate.decision with input as with_sources(many)
	count(decision.reasons) == 5
	decision.reasons[0] == "source_unreadable: git.example.com/team/001 (access none)"
}

test_reasons_in_order if {
	decision := lychgate.decision with input as with_sources([unresolvable, closed])
	decision.reasons == [
		"source_unreadable: git.example.com/teamA/secret-tool (access none)",
		"unresolvable_source: unknown scheme",
	]
}

# Transitive sources.

test_inputs_do_not_matter_by_default if lychgate.allow with input as with_inputs([closed])

test_transitive_all_readable if lychgate.allow with input as base with data.lychgate.config.transitive as true

test_transitive_input_closed if {
	not lychgate.allow with input as with_inputs([readable, closed]) with data.lychgate.config.transitive as true
}

test_transitive_input_public if {
	lychgate.allow with input as with_inputs([readable, open]) with data.lychgate.config.transitive as true
}

test_transitive_inputs_empty if {
	not lychgate.allow with input as with_inputs([]) with data.lychgate.config.transitive as true
}

test_transitive_source_closed if {
	not lychgate.allow with input as with_sources([closed]) with data.lychgate.config.transitive as true
}

test_transitive_off if {
	lychgate.allow with input as with_inputs([closed]) with data.lychgate.config.transitive as false
}

test_transitive_mistyped_is_on if {
	not lychgate.allow with input as with_inputs([closed]) with data.lychgate.config.transitive as "no"
}

test_transitive_reasons if {
	decision := lychgate.decision with input as with_inputs([unresolvable, closed])
		with data.lychgate.config.transitive as true
	decision.reasons == [
		"input_unreadable: git.example.com/teamA/secret-tool (access none)",
		"unresolvable_input: unknown scheme",
	]
}

test_transitive_reason_no_inputs if {
	decision := lychgate.decision with input as with_inputs([]) with data.lychgate.config.transitive as true
	startswith(decision.reasons[0], "no_inputs: ")
}

# Writes.

test_begin_allowed if lychgate.allow with input as begin

test_begin_without_role if {
	document := object.union(begin, {"principal": {"roles": ["writer:review", "admin:main"]}})
	not lychgate.allow with input as document
	decision := lychgate.decision with input as document
	decision.rule == "writer_role"
	decision.reasons == ["not_a_writer: the role writer:main is missing"]
}

test_begin_agrees if agree(begin)

test_write_allowed if lychgate.allow with input as write with data.lychgate.config.zones as signers

test_write_rule if {
	decision := lychgate.decision with input as write with data.lychgate.config.zones as signers
	decision.rule == "write_role_and_signer"
}

test_write_without_role if {
	document := json.patch(write, [{"op": "replace", "path": "/principal/roles", "value": []}])
	decision := lychgate.decision with input as document with data.lychgate.config.zones as signers
	not decision.allow
	decision.reasons == ["not_a_writer: the role writer:main is missing"]
}

test_write_role_of_another_zone if {
	document := object.union(write, {"zone": "release"})
	not lychgate.allow with input as document
		with data.lychgate.config.zones as {"main": signers.main, "release": signers.main}
}

test_write_role_must_match_whole if {
	document := json.patch(write, [{"op": "replace", "path": "/principal/roles", "value": ["writer:mainline", "xwriter:main"]}])
	not lychgate.allow with input as document with data.lychgate.config.zones as signers
}

test_write_admin_is_not_a_writer if {
	document := json.patch(write, [{"op": "replace", "path": "/principal/roles", "value": ["admin:main"]}])
	not lychgate.allow with input as document with data.lychgate.config.zones as signers
}

test_write_signer_not_listed if {
	document := object.union(write, {"artifact": {"signer": "mallory"}})
	decision := lychgate.decision with input as document with data.lychgate.config.zones as signers
	not decision.allow
	decision.reasons == ["signer_not_allowed: mallory may not sign for zone main"]
}

test_write_signer_of_another_zone if {
	not lychgate.allow with input as write with data.lychgate.config.zones as {"main": {"signers": ["x"]}, "pr": signers.main}
}

test_write_no_signers_configured if not lychgate.allow with input as write with data.lychgate.config as {}

test_write_empty_signers if {
	not lychgate.allow with input as write with data.lychgate.config.zones as {"main": {"signers": []}}
}

test_write_empty_signer if {
	document := object.union(write, {"artifact": {"signer": ""}})
	not lychgate.allow with input as document with data.lychgate.config.zones as signers
}

test_write_does_not_need_readable_sources if {
	document := object.union(write, {"artifact": {"sources": [closed]}})
	lychgate.allow with input as document with data.lychgate.config.zones as signers
}

test_write_names_both_reasons if {
	document := object.union(
		json.patch(write, [{"op": "replace", "path": "/principal/roles", "value": []}]),
		{"artifact": {"signer": "mallory"}},
	)
	decision := lychgate.decision with input as document with data.lychgate.config.zones as signers
	count(decision.reasons) == 2
}

# Reports.

test_report_allowed if lychgate.allow with input as report

test_report_without_role if {
	document := json.patch(report, [{"op": "replace", "path": "/principal/roles", "value": []}])
	not lychgate.allow with input as document
}

test_report_signed_by_a_lister if {
	document := object.union(report, {"artifact": {"signer": "ci-main"}})
	lychgate.allow with input as document with data.lychgate.config.zones as signers
}

test_report_signed_by_another if {
	document := object.union(report, {"artifact": {"signer": "mallory"}})
	decision := lychgate.decision with input as document with data.lychgate.config.zones as signers
	not decision.allow
	decision.reasons == ["signer_not_allowed: mallory may not sign for zone main"]
}

# Administration.

test_admin_allowed if lychgate.allow with input as administer

test_admin_of_another_zone if not lychgate.allow with input as object.union(administer, {"zone": "release"})

test_admin_needs_the_role if {
	document := json.patch(administer, [{"op": "replace", "path": "/principal/roles", "value": ["writer:main"]}])
	decision := lychgate.decision with input as document
	not decision.allow
	decision.reasons == ["not_an_admin: the role admin:main is missing"]
}

test_admin_with_an_empty_zone if not lychgate.allow with input as object.union(administer, {"zone": ""})

# Nothing in the default lets an anonymous asker in.

test_anonymous_ok_is_never_set if {
	every document in [base, write, report, administer] {
		decision := lychgate.decision with input as document with data.lychgate.config.zones as signers
		not decision.anonymous_ok
	}
}

test_entry_points_agree if {
	every document in [
		base, write, report, administer, with_sources([]), with_sources([closed]), with_sources([unresolvable]),
		with_sources([open]), with_member("action", "delete"), object.union(base, {"artifact": {"recorded": false}}),
	] {
		agree(document)
	}
}
