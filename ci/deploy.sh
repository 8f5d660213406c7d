#!/bin/sh
# Deploys what every location shares, then each location of ci/locations, and deletes the stacks of
# those that no longer stand there. Takes its parameters from the environment: IMAGE, VPC_ID,
# SUBNET_IDS, ALARM_TOPIC_ARN, STORAGE_BUCKET, MANIFEST_BUCKET and SCHEDULE_STATE, and, where they
# apply, STORAGE_KEY_ARNS and MANIFEST_KEY_ARNS, the buckets' own keys, ROLE_ARN, the role to act as,
# and PERMISSIONS_BOUNDARY, of the roles that it makes; deployer.yaml makes these two. With the
# argument `registry` it deploys only the registry, for PULL_PRINCIPALS.
set -eu
cd "$(dirname "$0")/.."
. ci/role.sh

deploy() {
  stack=$1 template=$2 made_for=$3
  shift 3
  aws cloudformation deploy --stack-name "$stack" --template-file "deploy/aws/$template.yaml" --capabilities CAPABILITY_IAM \
    --no-fail-on-empty-changeset --tags "coalesce=$made_for" --parameter-overrides "$@"
}

# Moves a tag that the registry's lifecycle spares to the image. The image of another registry has
# to be kept there.
tag_image() {
  case $IMAGE in
    "$account".*@sha256:*) ;;
    *) echo "$IMAGE gets no tag '$1': it is not named by a digest in account $account" && return ;;
  esac
  digest=${IMAGE##*@}
  [ "$(image_says "imageTag=$1" imageId.imageDigest)" != "$digest" ] || return 0
  manifest=$(image_says "imageDigest=$digest" imageManifest)
  kind=$(image_says "imageDigest=$digest" imageManifestMediaType)
  aws ecr put-image --repository-name coalesce --image-digest "$digest" --image-tag "$1" \
    --image-manifest "$manifest" --image-manifest-media-type "$kind" > /dev/null
}

image_says() {
  aws ecr batch-get-image --repository-name coalesce --image-ids "$1" --output text --query "images[0].$2"
}

deploy_location() {
  name=$1 layout=$2 prefix=$3 date=$4 shards=$5
  bucket=$STORAGE_BUCKET keys=${STORAGE_KEY_ARNS:-}
  [ "$layout" = storage ] || bucket=$MANIFEST_BUCKET keys=${MANIFEST_KEY_ARNS:-}
  deploy "coalesce-$name" location location "Image=$IMAGE" "AlarmTopicArn=$ALARM_TOPIC_ARN" "Bucket=$bucket" "KmsKeyArns=$keys" \
    "Prefix=$prefix" "Layout=$layout" "Date=$date" "Shards=$shards" "ScheduleState=$SCHEDULE_STATE" \
    "PermissionsBoundary=${PERMISSIONS_BOUNDARY:-}"
}

if [ "${1:-}" = registry ]; then
  deploy coalesce-registry registry registry "PullPrincipals=${PULL_PRINCIPALS:-}"
  exit
fi

locations=$(while read -r name rest || [ -n "$name" ]; do
  case $name in '' | '#'*) ;; *) echo "$name $rest" ;; esac
done < ci/locations)
[ -n "$locations" ] || { echo "ci/locations names no location: nothing was changed" >&2; exit 1; }

account=$(aws sts get-caller-identity --query Account --output text)
tag_image deploying
deploy coalesce-batch batch batch "VpcId=$VPC_ID" "SubnetIds=$SUBNET_IDS" "AlarmTopicArn=$ALARM_TOPIC_ARN" \
  "PermissionsBoundary=${PERMISSIONS_BOUNDARY:-}"
echo "$locations" | while read -r name layout prefix date shards; do
  deploy_location "$name" "$layout" "$prefix" "$date" "$shards"
done
tag_image deployed

listed=$(echo "$locations" | while read -r name _; do printf ' coalesce-%s ' "$name"; done)
stacks=$(aws cloudformation describe-stacks --query "Stacks[?Tags[?Key=='coalesce' && Value=='location']].StackName" --output text)
for stack in $stacks; do
  case $listed in *" $stack "*) continue ;; esac
  echo "$stack is no longer in ci/locations: deleting its schedule and its rights"
  aws cloudformation delete-stack --stack-name "$stack"
  aws cloudformation wait stack-delete-complete --stack-name "$stack"
done
