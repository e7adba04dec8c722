"""Train the ResNet34 baseline on SageMaker.

    python sagemaker_jobs/resnet34.py --dry_run                 # the request; needs no account
    python sagemaker_jobs/resnet34.py --dataset s3://BUCKET/datasets/bins --spot --wait

Any flag of train.py may follow. Other depths: --model_name_or_path microsoft/resnet-18 or
microsoft/resnet-50; from scratch, as in the challenge: --config_name resnet34. Its recipe is
train.py's default without mixup.
"""

from launching.launch import launch
from launching.recipe import shipped_recipe

RECIPE = shipped_recipe("resnet34")

if __name__ == "__main__":
    launch(RECIPE, __doc__)
