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
  description = "Subnets with a way to S3, to the image and to CloudWatch Logs"
  type        = list(string)
}

variable "assign_public_ip" {
  type    = bool
  default = false
}

variable "compute_type" {
  description = "Spot costs less and may be taken away; a run that is taken away is finished by its next attempt"
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
  description = "vCPU and MiB of each shard, as Fargate offers them together"
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
  description = "Its policy must let events.amazonaws.com and cloudwatch.amazonaws.com publish"
  type        = string
}

variable "log_retention_days" {
  type    = number
  default = 90
}

variable "schedule" {
  description = "In UTC. The job definitions' time-out counts on 02:30"
  type        = string
  default     = "cron(30 2 * * ? *)"
}

variable "schedule_enabled" {
  type    = bool
  default = true
}

variable "locations" {
  description = "What is coalesced every night, by a name of your own. Prefixes have no slash at either end; more than one shard becomes an array job"
  type = map(object({
    bucket    = string
    prefix    = string
    layout    = optional(string, "storage")
    date      = optional(string, "yesterday")
    shards    = optional(number, 1)
    threads   = optional(number, 0)
    max_files = optional(number, 1000000)
    max_size  = optional(number, 128000000)
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

variable "kms_key_arns" {
  description = "The buckets' own keys, if they have any"
  type        = list(string)
  default     = []
}

variable "managed_buckets" {
  description = "Existing buckets whose policy and lifecycle this module may set. It replaces what they have: leave this empty for buckets with rules of their own"
  type        = set(string)
  default     = []
}
