#!/bin/sh
# Waits for the scan of the image DIGEST, and fails on critical and high findings, but for those that
# ci/accepted-findings accepts until today or later. ROLE_ARN, if set, is the role to act as.
set -eu
cd "$(dirname "$0")/.."
. ci/role.sh

today=$(date -u +%Y-%m-%d)

accepted() {
  while read -r finding until _ || [ -n "$finding" ]; do
    [ "$finding" = "$1" ] || continue
    # what is no date makes the comparison fail, and accepts nothing
    [ "$(echo "$until" | tr -d -)" -ge "$(echo "$today" | tr -d -)" ] && echo "$1 is accepted until $until" && return
    echo "$1 was accepted until $until"
  done < ci/accepted-findings
  return 1
}

aws ecr wait image-scan-complete --repository-name coalesce --image-id "imageDigest=$DIGEST"
# shellcheck disable=SC2016 # the backquotes are JMESPath's
findings=$(aws ecr describe-image-scan-findings --repository-name coalesce --image-id "imageDigest=$DIGEST" --output text \
  --query 'imageScanFindings.findings[?severity==`CRITICAL` || severity==`HIGH`].[name]')
left=0
for name in $findings; do
  accepted "$name" || { echo "$name is critical or high"; left=$((left + 1)); }
done
echo "$left critical or high findings that are not accepted"
[ "$left" -eq 0 ]
