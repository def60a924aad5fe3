#!/bin/bash
# OpenCue: the command of a layer is  opencue.sh '#FRAMESPEC#' plates/plate.%04d.png restored/
# Code 33 asks for a machine with more memory; the lines of --progress lines keep timeout_llu from ending a frame.
exec ${VARESTORER:-varestorer} restore "$2" "$3" --frames "$1" --missing skip \
    --progress lines --exit-codes opencue
