import pytest

from log_lines import Figures, read_figures

OWN = "metrics split=validation step=60 epoch=1 loss=1.3971 accuracy=0.371"


def only(line: str) -> Figures:
    """Return the one set of figures in a line that holds nothing else."""
    ([figures], problem) = read_figures(line)
    assert problem == ""
    return figures


def values(line: str) -> dict[str, str]:
    return only(line).values


def test_our_own_line_says_split_step_and_epoch() -> None:
    assert only(f"{OWN}\n") == Figures(
        0, "validation", "60", "1", {"loss": "1.3971", "accuracy": "0.371"}, is_own=True
    )


@pytest.mark.parametrize(
    "line",
    [
        "{'eval_loss': '1.397', 'eval_accuracy': '0.371', 'epoch': '1'}",  # transformers 5
        "{'eval_loss': 1.397, 'eval_accuracy': 0.371, 'epoch': 1}",  # transformers 4
        '{"eval_loss": 1.397, "eval_accuracy": 0.371, "epoch": 1}',
    ],
)
def test_trainers_dictionaries_of_all_versions_say_the_same(line: str) -> None:
    assert only(line) == Figures(
        0, "validation", "", "1", {"loss": "1.397", "accuracy": "0.371"}, is_own=False
    )


@pytest.mark.parametrize("number", ["1e-05", "-0.25", "nan", "inf", "-inf", "1.5E+3", ".5", "0"])
def test_every_form_of_a_number_is_kept_as_it_was_printed(number: str) -> None:
    assert values(f"metrics split=train step=1 epoch=0.1 loss={number}") == {"loss": number}
    assert values(f"{{'loss': {number}, 'epoch': 0.1}}") == {"loss": number}
    assert values(f"{{'loss': '{number}', 'epoch': '0.1'}}") == {"loss": number}


def test_percentages_become_shares_also_above_sixty() -> None:
    figures = only("Loss 0.0067, Accuracy 62.763636363636365%")
    assert figures.split == "train"
    assert figures.values == {"loss": "0.0067", "accuracy": "0.6276363636363637"}
    figures = only("Test set: Accuracy: 45%")
    assert (figures.split, figures.values) == ("test", {"accuracy": "0.45"})


def test_the_mean_loss_of_a_whole_run_is_no_point_of_its_curve() -> None:
    summary = "{'train_runtime': '161.2', 'train_loss': '0.9875', 'epoch': '4'}"
    assert values(summary) == {"runtime": "161.2", "mean_loss": "0.9875"}
    assert values("metrics split=train step=264 epoch=4 runtime=161.2 loss=0.9875") == {
        "runtime": "161.2",
        "mean_loss": "0.9875",
    }


def test_what_stands_in_front_is_no_obstacle() -> None:
    front = " 50%|█████     | 33/66 [00:10<00:10,  3.2it/s]"
    figures = only(f"{front}{{'loss': 1.5, 'epoch': 0.5}}")
    assert figures.start == len(front)
    assert figures.values == {"loss": "1.5"}
    assert values("[1,mpirank:0,algo-1]<stdout>:{'loss': 1.5, 'epoch': 0.5}") == {"loss": "1.5"}


@pytest.mark.parametrize(
    "line",
    [
        "",
        "Loading weights: 100%|██████████| 200/200",
        "{'learning_rate': 2e-05, 'train_batch_size': 64}",
        '"metric_for_best_model": "loss",',
        "Saving model checkpoint to runs/vit/checkpoint-60",
        "The loss is the mean cross entropy.",
    ],
)
def test_a_line_without_figures_holds_none(line: str) -> None:
    assert read_figures(line) == ([], "")


@pytest.mark.parametrize(
    "line",
    [
        "metrics split=train step=10 epoch=0.5 loss=",
        "metrics split=train step=10 epoch=0.5 loss=1.4 accu",
        "metrics split=train step=10 epoch=0.5 loss=1.4metrics split=train step=11",
        "metrics split=train step=10 epoch=0.5",
        "{'loss': 1.5, 'epoch': 0.5",
        "{'loss': 1.5, 'note': 'warm'}",
        "{'eval_loss': None, 'epoch': 1.0}",
        "{'eval_loss': 1.2, 'eval_accuracy': 52.5, 'epoch': 1.0}",
        "Loss 0.01, Accuracy many%",
        "Test set: Accuracy: ",
        "epoch 3 val_loss=0.7",
        "Accuracy: 45",
    ],
)
def test_what_looks_like_a_metric_and_is_not_whole_is_an_error(line: str) -> None:
    sets, problem = read_figures(line)
    assert sets == []
    assert problem


def test_all_sets_of_a_line_are_read() -> None:
    sets, problem = read_figures(
        f"{{'loss': 1.4, 'epoch': 0.5}}{{'eval_loss': 1.31, 'eval_accuracy': 0.41}} {OWN}"
    )
    assert problem == ""
    assert [(one.split, one.values["loss"]) for one in sets] == [
        *(("train", "1.4"), ("validation", "1.31"), ("validation", "1.3971")),
    ]


@pytest.mark.parametrize(
    ("line", "loss"),
    [
        ("{'loss': 1.4, 'epoch': 0.5}{'eval_loss': 1.31, 'epo", "1.4"),
        ("{'loss': 1.3, 'epo{'loss': 1.4, 'epoch': 0.5}", "1.4"),
        ("metrics split=train step=1 loss=1.3{'loss': 1.4}", "1.4"),  # 1.3 may be the half of it
        ("val_loss=0.7 {'loss': 1.4, 'epoch': 0.5}", "1.4"),
        ("{'loss': 1.4, 'epoch': 0.5} val_loss=0.7", "1.4"),
    ],
)
def test_beside_what_is_read_the_rest_of_a_line_is_told(line: str, loss: str) -> None:
    ([figures], problem) = read_figures(line)
    assert figures.values == {"loss": loss}
    assert problem


def test_figures_end_where_the_text_in_json_ends() -> None:
    assert values('    "value": "metrics split=train step=1 epoch=1 loss=1.5\\n",') == {
        "loss": "1.5"
    }
    assert values('    "value": "metrics split=train step=1 epoch=1 loss=1.5",') == {"loss": "1.5"}
