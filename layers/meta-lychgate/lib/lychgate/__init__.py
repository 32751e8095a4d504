# SPDX-License-Identifier: Apache-2.0
"""What lychgate.bbclass does. Nothing in here is called by a task, and nothing raises into BitBake."""

BBIMPORTS = ["files", "git", "uri", "layers", "sources", "record", "follow"]
