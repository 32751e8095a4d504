# METADATA
# title: The shipped default
# description: |
#   A read is allowed when the artifact is recorded, has at least one source, and every source is public or readable by
#   the principal at its forge, now. A write or report is allowed to a writer of the zone whose statement is signed by
#   an identity the zone lists. Everything else is denied.
#
#   Every rule says what must hold, never what must not: a member that is missing makes a rule fail, and failing is a
#   denial. See docs/policy-guide.md and docs/policy-input.md.
package lychgate

# METADATA
# title: The hot path
# description: A boolean. It must say the same as decision.allow; when the two disagree the gate denies.
# entrypoint: true
default allow := false

allow if {
	input.action in {"read", "stat", "list"}
	input.artifact.recorded == true
	sources_open
	inputs_open
}

# A write is asked about twice: before bytes are staged, and with the verified statement.
allow if {
	input.action == "begin"
	writer
}

allow if {
	input.action == "write"
	writer
	signer_allowed
}

# A report carries no statement: a hash mapping gives nobody the right to read.
allow if {
	input.action == "report"
	writer
	report_signer_allowed
}

allow if {
	input.action == "admin"
	admin
}

# METADATA
# title: The answer with its reasons
# description: Reasons are a stable code, then words for a person.
# entrypoint: true
default decision := {"allow": false, "rule": "default_deny", "reasons": ["unknown_action: the policy has no rule for it"]}

decision := {"allow": true, "rule": rule, "reasons": [grounds[rule]]} if {
	allow
} else := {"allow": false, "rule": rule, "reasons": sort(denials)}

rule := {
	"read": "read_sources",
	"stat": "read_sources",
	"list": "read_sources",
	"begin": "writer_role",
	"write": "write_role_and_signer",
	"report": "report_role",
	"admin": "admin_role",
}[input.action]

grounds := {
	"read_sources": "sources_readable: every source is public or readable",
	"writer_role": "writer: the role is right",
	"write_role_and_signer": "writer: the role and the signer are right",
	"report_role": "writer: the role is right",
	"admin_role": "admin: the role is right",
}

# Reads.

sources_open if all_open(input.artifact.sources)

# The direct sources decide, unless the configuration asks for the transitive ones too.
inputs_open if not transitive

inputs_open if {
	transitive
	all_open(input.artifact.inputs)
}

# Whatever is there and is not false asks for the transitive sources: a mistyped switch must not widen.
transitive if data.lychgate.config.transitive != false

# Most often the forge's answers are enough; public sources are looked at when they are not.
all_open(sources) if {
	count(sources) > 0
	count(readable(sources)) == count(sources)
} else if {
	count(sources) > 0
	count(open(sources)) == count(sources)
}

# The positions in a list of sources that the principal, or anyone, may read.
open(sources) := readable(sources) | public(sources)

readable(sources) := {i |
	sources[i].access == "read"
	sources[i].type != "unresolvable"
}

public(sources) := {i |
	sources[i].public == true
	sources[i].type != "unresolvable"
}

# Writes.

writer if sprintf("writer:%s", [input.zone]) in input.principal.roles

admin if sprintf("admin:%s", [input.zone]) in input.principal.roles

# For a write, artifact.signer is the identity that signed the statement being written.
signer_allowed if input.artifact.signer in data.lychgate.config.zones[input.zone].signers

report_signer_allowed if input.artifact.signer == ""

report_signer_allowed if signer_allowed

# Why not.

reading if input.action in {"read", "stat", "list"}

denials contains "not_recorded: nothing was published under this name" if {
	reading
	not input.artifact.recorded
}

denials contains "no_sources: its statement names no source" if {
	reading
	input.artifact.recorded
	count(input.artifact.sources) == 0
}

denials contains "no_inputs: its statement names no build-time input, and this zone's policy asks for them" if {
	reading
	input.artifact.recorded
	transitive
	count(input.artifact.inputs) == 0
}

denials contains reason if {
	reading
	some reason in closed("source", input.artifact.sources)
}

denials contains reason if {
	reading
	transitive
	some reason in closed("input", input.artifact.inputs)
}

denials contains sprintf("not_a_writer: the role writer:%s is missing", [input.zone]) if {
	input.action in {"begin", "write", "report"}
	not writer
}

denials contains sprintf("signer_not_allowed: %s may not sign for zone %s", [input.artifact.signer, input.zone]) if {
	input.action == "write"
	not signer_allowed
}

denials contains sprintf("signer_not_allowed: %s may not sign for zone %s", [input.artifact.signer, input.zone]) if {
	input.action == "report"
	not report_signer_allowed
}

denials contains sprintf("not_an_admin: the role admin:%s is missing", [input.zone]) if {
	input.action == "admin"
	not admin
}

# The first few are named; an artifact may have hundreds.
closed(word, sources) := {reason |
	positions := {i | some i, _ in sources} - open(sources)
	some i in array.slice(sort(positions), 0, 5)
	reason := closed_reason(word, sources[i])
}

closed_reason(word, s) := sprintf("unresolvable_%s: %s", [word, object.get(s, "reason", "no reason given")]) if {
	s.type == "unresolvable"
} else := sprintf("%s_unreadable: %s/%s (access %s)", [word, s.host, s.path, s.access])
