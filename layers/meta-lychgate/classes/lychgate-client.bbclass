# SPDX-License-Identifier: Apache-2.0
#
# For builds that read from a gate without lychgate agent: shows the gate a client certificate, and has mirrors over sftp:// asked
# before anything is downloaded. Inherit it for the whole build, in conf/local.conf or the distribution:
#
#   INHERIT += "lychgate-client"
#
# It changes what BitBake's fetchers do, in handlers of events; no task and no hash depends on it. Whatever goes wrong is a warning
# and a miss. README.md of the layer says what the variables mean.

LYCHGATE_DIR ?= "${TMPDIR}/lychgate"
LYCHGATE_GATE ?= ""
LYCHGATE_CA ?= ""
LYCHGATE_TLS_CERT ?= ""
LYCHGATE_TLS_KEY ?= ""

addhandler lychgate_client_configured
lychgate_client_configured[eventmask] = "bb.event.ConfigParsed"
python lychgate_client_configured() {
    import lychgate.client
    lychgate.client.install(e.data)
}

addhandler lychgate_client_build_started
lychgate_client_build_started[eventmask] = "bb.event.BuildStarted"
python lychgate_client_build_started() {
    import lychgate.files
    lychgate.files.forget_warning(e.data)
}
