output "repository_url" {
  value = aws_ecr_repository.this.repository_url
}

output "queue_arn" {
  value = aws_batch_job_queue.this.arn
}

output "job_definition_arns" {
  value = { for name, definition in aws_batch_job_definition.this : name => definition.arn }
}

output "job_role_arn" {
  value = aws_iam_role.job.arn
}

output "bucket_policies" {
  description = "Policy for each bucket that enforces conditional writes and deletes; for buckets that are not in managed_buckets"
  value       = { for bucket, document in data.aws_iam_policy_document.bucket : bucket => document.json }
}
