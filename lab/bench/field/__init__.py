"""`skipstone bench field`: the whole field on the same noises, beside the dense run and fewer steps."""
