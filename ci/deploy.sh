#!/bin/sh
# Deploys what every location shares, then each location of ci/locations. Takes its parameters from the environment:
# IMAGE, VPC_ID, SUBNET_IDS, ALARM_TOPIC_ARN, STORAGE_BUCKET, MANIFEST_BUCKET, SCHEDULE_STATE; STORAGE_KEY_ARNS and MANIFEST_KEY_ARNS, if
# the buckets have KMS keys of their own; ROLE_ARN, if there is one, is assumed.
set -eu
cd "$(dirname "$0")/.."

if [ -n "${ROLE_ARN:-}" ]; then
  aws configure set profile.deploy.role_arn "$ROLE_ARN"
  aws configure set profile.deploy.credential_source Environment
  export AWS_PROFILE=deploy
fi

deploy() {
  stack=$1 template=$2
  shift 2
  aws cloudformation deploy --stack-name "$stack" --template-file "deploy/aws/$template.yaml" --capabilities CAPABILITY_IAM \
    --no-fail-on-empty-changeset --parameter-overrides "$@"
}

if [ "${1:-}" = registry ]; then
  deploy coalesce-registry registry "PullPrincipals=${PULL_PRINCIPALS:-}"
  exit
fi

deploy coalesce-batch batch "VpcId=$VPC_ID" "SubnetIds=$SUBNET_IDS" "AlarmTopicArn=$ALARM_TOPIC_ARN"
grep -v '^#' ci/locations | while read -r name layout prefix date shards; do
  bucket=$STORAGE_BUCKET keys=${STORAGE_KEY_ARNS:-}
  [ "$layout" = storage ] || bucket=$MANIFEST_BUCKET keys=${MANIFEST_KEY_ARNS:-}
  deploy "coalesce-$name" location "Image=$IMAGE" "AlarmTopicArn=$ALARM_TOPIC_ARN" "Bucket=$bucket" "KmsKeyArns=$keys" "Prefix=$prefix" \
    "Layout=$layout" "Date=$date" "Shards=$shards" "ScheduleState=$SCHEDULE_STATE"
done
