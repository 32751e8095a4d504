# SPDX-License-Identifier: Apache-2.0
"""What the classes of meta-lychgate do. Nothing in here is called by a task, and nothing raises into BitBake."""

BBIMPORTS = ["files", "git", "uri", "layers", "sources", "record", "follow", "client"]
