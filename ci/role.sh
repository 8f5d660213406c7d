# shellcheck shell=sh
# Sourced by the scripts that call `aws`. With ROLE_ARN, each call acts as that role, and the script
# ends where it cannot. Without ROLE_ARN, calls act as whoever the environment's credentials name.

acts_as_role() { # the ARN of a session has the role's account and name, not its path
  case $(aws sts get-caller-identity --query Arn --output text) in
    arn:*:sts::"$(echo "$ROLE_ARN" | cut -d : -f 5)":assumed-role/"${ROLE_ARN##*/}"/*) return 0 ;;
    *) return 1 ;;
  esac
}

assume_role() {
  AWS_CONFIG_FILE=$(mktemp)
  export AWS_CONFIG_FILE
  trap 'rm -f "$AWS_CONFIG_FILE"' EXIT
  printf '[profile role]\nrole_arn = %s\ncredential_source = Environment\n' "$ROLE_ARN" > "$AWS_CONFIG_FILE"
  # As an option, because keys in the environment win over AWS_PROFILE.
  aws() { command aws --profile role "$@"; }
}

if [ "${ROLE_ARN+set}" ]; then
  acts_as_role || assume_role
  acts_as_role || { echo "cannot act as the role '$ROLE_ARN': nothing was changed" >&2; exit 1; }
fi
