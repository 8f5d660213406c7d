output "repository_url" {
  value = aws_ecr_repository.this.repository_url
}

output "queue_arn" {
  value = aws_batch_job_queue.this.arn
}

output "job_definition_names" {
  description = "By location. A name without a revision stands for the newest"
  value       = { for name, definition in aws_batch_job_definition.this : name => definition.name }
}

output "job_role_arns" {
  description = "By location, for the policies of buckets and of their KMS keys"
  value       = { for name, role in aws_iam_role.job : name => role.arn }
}

output "bucket_policies" {
  description = "Policy for each bucket that enforces conditional writes and deletes; for buckets that are not in managed_buckets"
  value       = { for bucket, document in data.aws_iam_policy_document.bucket : bucket => document.json }
}
