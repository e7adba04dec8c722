"""Train the ResNet34 baseline on SageMaker.

    python sagemaker_jobs/resnet34.py --dry_run                 # the request; needs no account
    python sagemaker_jobs/resnet34.py --dataset s3://BUCKET/datasets/bins --spot --wait

Any flag of train.py may follow. Other depths: --model_name_or_path microsoft/resnet-18 or
microsoft/resnet-50; from scratch, as in the challenge: --config_name resnet34. Its recipe is
train.py's default without mixup.
"""

from launching.launch import launch
from launching.recipe import EVERY_RECIPE, Recipe

RECIPE = Recipe(
    name="resnet34",
    hyperparameters={
        "model_name_or_path": "microsoft/resnet-34",
        "learning_rate": 1e-3,
        "num_train_epochs": 10,
        "per_device_train_batch_size": 64,
        # From scratch the published recipe was ahead of ours with mixup, and is not without it
        # (docs/recipe.md#resnet34-from-scratch).
        "mixup": False,
        **EVERY_RECIPE,
    },
    instance_type="ml.g5.2xlarge",  # one A10G, and eight cores that decode photos for it
    max_run=24 * 3600,
    expectation=(
        "53 % accuracy was published for plain training at this rate: 198,000 training photos, "
        "1 to 5 items, 10 epochs, on splits that leak; expect less on splits that do not."
    ),
)

if __name__ == "__main__":
    launch(RECIPE, __doc__)
