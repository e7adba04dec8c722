"""Print the URI of an image that jobs or endpoints run.

python sagemaker_jobs/image_uri.py --region eu-west-1                     # the training image
python sagemaker_jobs/image_uri.py --processor cpu --purpose inference
"""

import container
from aws.entry_parser import EntryParser
from sdk.images import image_uri


def main(argv: list[str] | None = None) -> None:
    """Print the URI of an image."""
    parser = EntryParser(__doc__)
    parser.add_argument(
        "--region", default=container.DEFAULT_REGION, help="an AWS region (default: %(default)s)"
    )
    parser.add_argument(
        "--processor", choices=("gpu", "cpu"), default="gpu", help="default: %(default)s"
    )
    parser.add_argument(
        "--purpose",
        choices=("training", "inference"),
        default="training",
        help="default: %(default)s",
    )
    arguments = parser.parse_args(argv)
    with parser.errors_of_one_line():
        print(image_uri(arguments.region, arguments.processor, arguments.purpose))


if __name__ == "__main__":
    main()
