# METADATA
# title: Everybody by their rights, and a zone for one group
# description: |
#   As the built-in rule, on the direct sources. What was found in the zone vault is for the group vault-team alone,
#   whatever else its reader may read. Every rule says what must hold, so that a missing member is a denial.
package lychgate

default allow := false

allow if {
	input.action in {"read", "stat", "list"}
	input.artifact.recorded == true
	sources_open
	zone_open
}

allow if {
	input.action == "begin"
	writer
}

allow if {
	input.action == "write"
	writer
	input.artifact.signer in data.lychgate.config.zones[input.zone].signers
}

allow if {
	input.action == "report"
	writer
}

allow if {
	input.action == "admin"
	sprintf("admin:%s", [input.zone]) in input.principal.roles
}

writer if sprintf("writer:%s", [input.zone]) in input.principal.roles

sources_open if {
	count(input.artifact.sources) > 0
	every s in input.artifact.sources {
		s.type != "unresolvable"
		true in {s.access == "read", s.public}
	}
}

# The zone in which the artifact was found, not the one it was asked for in: a zone that reads through to vault must not
# open it. A zone that is not listed is closed.
zone_open if input.artifact.zone in {"main", "review"}

zone_open if {
	input.artifact.zone == "vault"
	"vault-team" in input.principal.groups
}

decision := {"allow": true, "rule": "granted", "reasons": [sprintf("%s: every condition holds", [input.action])]} if {
	allow
} else := {"allow": false, "rule": "refused", "reasons": sort(denials)}

denials contains "no_rule: nothing allows this"

denials contains "sources_closed: a source is not readable, or there is none" if {
	input.action in {"read", "stat", "list"}
	not sources_open
}

denials contains sprintf("zone_closed: %s is not for this principal", [input.artifact.zone]) if {
	input.action in {"read", "stat", "list"}
	not zone_open
}
