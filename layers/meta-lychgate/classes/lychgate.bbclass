# SPDX-License-Identifier: Apache-2.0
#
# Records what every object of the shared-state cache is built from, for "lychgate push --records". Inherit it for the whole
# build, in conf/local.conf or the distribution:
#
#   INHERIT += "lychgate"
#
# Nothing here is part of a task: the work is done by event handlers, so no task hash depends on it. Whatever goes wrong is a
# warning and never fails a build. README.md of the layer says what the variables mean.

LYCHGATE_DIR ?= "${TMPDIR}/lychgate"
LYCHGATE_RECORDS ?= "${LYCHGATE_DIR}/records"

# With "1" a process beside the build pushes what it makes while it makes it. LYCHGATE_PUSH_ARGS are flags of lychgate push.
LYCHGATE_PUSH ?= "0"
LYCHGATE_PUSH_ARGS ?= ""
LYCHGATE_PUSH_LOG ?= "${LYCHGATE_DIR}/push.log"
LYCHGATE_PUSH_WAIT ?= "0"
LYCHGATE_PROGRAM ?= "lychgate"

# A task that runs under pseudo succeeds under pseudo, and its record is no file of the recipe. Later series name the directories
# that pseudo looks at, and this is none of them.
PSEUDO_IGNORE_PATHS .= ",${LYCHGATE_DIR},${LYCHGATE_RECORDS}"

addhandler lychgate_build_started
lychgate_build_started[eventmask] = "bb.event.BuildStarted"
python lychgate_build_started() {
    import lychgate.follow
    import lychgate.layers
    lychgate.layers.started(e.data)
    lychgate.follow.started(e.data)
}

addhandler lychgate_build_completed
lychgate_build_completed[eventmask] = "bb.event.BuildCompleted"
python lychgate_build_completed() {
    import lychgate.follow
    lychgate.follow.completed(e.data)
}

addhandler lychgate_task_succeeded
lychgate_task_succeeded[eventmask] = "bb.build.TaskSucceeded"
python lychgate_task_succeeded() {
    import lychgate.record
    lychgate.record.succeeded(e.data)
}
