variable "name" {
  description = "Prefix of every name"
  type        = string
  default     = "coalesce"
}

variable "image" {
  description = "The image with its tag or digest"
  type        = string
}

variable "vpc_id" {
  type = string
}

variable "subnet_ids" {
  description = "Subnets with a route to S3, ECR and CloudWatch Logs"
  type        = list(string)
}

variable "permissions_boundary" {
  description = "ARN of the policy that limits what the roles can do, whatever the module grants them"
  type        = string
  default     = null
}

variable "assign_public_ip" {
  type    = bool
  default = false
}

variable "compute_type" {
  description = "Spot costs less but can be interrupted; the next attempt of an interrupted run finishes its work"
  type        = string
  default     = "FARGATE"

  validation {
    condition     = contains(["FARGATE", "FARGATE_SPOT"], var.compute_type)
    error_message = "FARGATE or FARGATE_SPOT."
  }
}

variable "max_vcpus" {
  type    = number
  default = 32
}

variable "size" {
  description = "vCPUs and memory (MiB) of each shard, in a combination that Fargate offers"
  type        = object({ vcpu = number, memory = number })
  default     = { vcpu = 1, memory = 2048 }

  validation {
    condition = contains(lookup({
      "1"  = [2048, 4096, 8192]
      "2"  = [4096, 8192, 16384]
      "4"  = [8192, 16384]
      "8"  = [16384, 32768]
      "16" = [32768, 65536]
    }, tostring(var.size.vcpu), []), var.size.memory)
    error_message = "Fargate does not offer this memory with this vCPU."
  }
}

variable "alarm_topic_arn" {
  description = "Topic for alarms; its policy must let events.amazonaws.com and cloudwatch.amazonaws.com publish"
  type        = string
}

variable "log_retention_days" {
  type    = number
  default = 90
}

variable "schedule" {
  description = "In UTC. The job definitions' time-out assumes 02:30"
  type        = string
  default     = "cron(30 2 * * ? *)"
}

variable "schedule_enabled" {
  type    = bool
  default = true
}

variable "locations" {
  description = "The locations to run every night, by names of your choice. Prefixes have no leading or trailing slash; more than one shard makes an array job"
  type = map(object({
    bucket       = string
    bucket_owner = optional(string) # the account that must own the bucket; by default the module's own
    kms_key_arns = optional(list(string), [])
    prefix       = string
    layout       = optional(string, "storage")
    date         = optional(string, "yesterday")
    shards       = optional(number, 1)
    threads      = optional(number, 0)
    max_files    = optional(number, 1000000)
    max_size     = optional(number, 128000000)
  }))

  validation {
    condition     = alltrue([for location in values(var.locations) : contains(["storage", "manifests"], location.layout)])
    error_message = "A layout is storage or manifests."
  }
  validation {
    condition     = alltrue([for location in values(var.locations) : location.shards >= 1 && location.shards <= 10000])
    error_message = "An array job has 2 to 10,000 shards; 1 is a job without an array."
  }
}

variable "managed_buckets" {
  description = "Existing buckets whose policy and lifecycle this module may set. It replaces the ones they have, so leave out buckets with rules of their own"
  type        = set(string)
  default     = []
}
