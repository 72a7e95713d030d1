module finetune.cluster/pause

go 1.26.0
