"""Fine-tune ViT-B/16 on SageMaker.

    python sagemaker_jobs/vit.py --dry_run                      # the request; needs no account
    python sagemaker_jobs/vit.py --dataset s3://BUCKET/datasets/bins --spot --wait

Any flag of train.py may follow (--learning_rate 1e-4 --num_train_epochs 3), such as another model:
--model_name_or_path google/vit-large-patch16-224-in21k, facebook/dino-vitb16, ...
"""

from launching.launch import launch
from launching.recipe import EVERY_RECIPE, Recipe

RECIPE = Recipe(
    name="vit",
    hyperparameters={
        "model_name_or_path": "google/vit-base-patch16-224-in21k",
        # That of the head; lower layers learn at less (--regularize).
        "learning_rate": 3e-4,
        "num_train_epochs": 5,
        "per_device_train_batch_size": 64,
        **EVERY_RECIPE,
    },
    instance_type="ml.g5.2xlarge",  # one A10G, and eight cores that decode photos for it
    max_run=24 * 3600,
    expectation=(
        "52.5 % accuracy was published for plain fine-tuning of this model at 2e-5: 198,000 "
        "training photos, 1 to 5 items, 5 epochs, on splits that leak; expect less on splits that "
        "do not. The recipe of train.py was measured with fewer photos and a smaller ViT "
        "(docs/results.md)."
    ),
)

if __name__ == "__main__":
    launch(RECIPE, __doc__)
