#!/bin/bash
# Deadline, plugin CommandLine: Executable=/path/to/deadline.sh,
# Arguments=<STARTFRAME> <ENDFRAME> plates/plate.####.png restored/plate.####.png
# Deadline reads "Progress: N%" and takes every code but 0 for an error worth a retry. Frames that fail again on a retry
# are named in restored/failed.frames-1-10.txt; MAX_FAILED=5 lets so many of a task pass.
exec ${VARESTORER:-varestorer} restore "$3" "$4" --frames "$1-$2" --missing skip \
    --progress deadline --max-failed "${MAX_FAILED:-0}"
