"""Fine-tune ViT-B/16, or what another recipe says, on SageMaker.

    python sagemaker_jobs/vit.py --dry_run                      # the request; needs no account
    python sagemaker_jobs/vit.py --dataset s3://BUCKET/datasets/bins --spot --wait
    python sagemaker_jobs/vit.py --recipe vit_tiny --dataset s3://BUCKET/datasets/bins

Any flag of train.py may follow (--learning_rate 1e-4 --num_train_epochs 3), such as another model:
--model_name_or_path google/vit-large-patch16-224-in21k, facebook/dino-vitb16, ...
"""

from launching.launch import launch
from launching.recipe import shipped_recipe

RECIPE = shipped_recipe("vit")

if __name__ == "__main__":
    launch(RECIPE, __doc__)
