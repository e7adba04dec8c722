"""What others published on these photos, to draw beside our own. No split of theirs is grouped.

None keeps the photos of one bin on one side, so that a near-copy of most test photos was trained
on; and the counts and the numbers of photos differ. Ours is comparable with none of them as it is.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class PublishedResult:
    """One published figure, or the range of several.

    `accuracy` is (lowest, highest), shares; `rmse` is in items. None where it was not published.
    """

    source: str
    counts: str
    split: str
    accuracy: tuple[float, float]
    rmse: float | None = None

    @property
    def label(self) -> str:
        return f"{self.source}\n{self.counts} items, {self.split}, ungrouped"


PUBLISHED = (
    PublishedResult("abid_challenge, ResNet34", "0-5", "official split", (0.5567, 0.5567), 0.930),
    PublishedResult("Rodriguez Bertorello, ResNet34", "0-5", "324k photos", (0.562, 0.562), 0.90),
    PublishedResult("ozantezcan, ResNet", "0-5", "326k photos", (0.563, 0.563), 0.861),
    PublishedResult("AWS Warehouse Classifier, ViT-B/16", "1-5", "220k photos", (0.5253, 0.5253)),
    PublishedResult("AWS Warehouse Classifier, ResNet34", "1-5", "220k photos", (0.53, 0.53)),
    PublishedResult("projects on Udacity's subset", "1-5", "10k photos", (0.31, 0.36)),
)
