"""Trainer for photos that arrive as bytes and labels that are counts."""

import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.utils import broadcast, gather_object
from accelerate.utils.memory import should_reduce_batch_size
from torch import distributed, nn
from torch.nn import functional
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader, Sampler
from transformers import (
    EvalPrediction,
    PreTrainedModel,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
    ViTImageProcessor,
)
from transformers.trainer import OPTIMIZER_NAME, SCHEDULER_NAME
from transformers.trainer_utils import EvalLoopOutput, PredictionOutput

from budget.batch_size import evaluation_too_large
from budget.early_stopping import EarlyStopping
from budget.training_time import TrainingTime
from diagnostics.callback import Diagnostics, run_facts
from items.heads import ItemHeads, item_heads_of, item_loss, volume_change_loss
from items.measures import (
    distinct_items,
    fitted_spread_factor,
    fitted_spread_factors,
    item_figures,
    volume_change_figures,
)
from items.settings import ItemSettings
from items.sizes import SIZES, volume_changes
from recipe.augmentation import (
    APART,
    APART_SEEN_TWICE,
    mixed,
    mixing_shares,
    normalize,
    random_colour,
    random_flip,
    random_geometry,
)
from recipe.losses import balanced_weights, counting_loss, cross_entropy, item_distances
from recipe.regularization import (
    WeightAverage,
    add_drop_path,
    layer_groups,
    load_trained_weights,
    matrices,
    save_trained_weights,
)
from side_heads import save_side_heads, side_heads, without_side_heads
from training.arguments import BinTrainingArguments
from training.bin_dataset import (
    collate,
    has_items,
    items_of,
    share_checked,
    steps_of,
    visits_of,
    with_more,
)
from training.calibration import (
    before_and_after,
    calibration_figures,
    fitted_temperature,
    fold_temperature,
)
from training.checkpoints import (
    TimedCheckpoints,
    checkpoint_here,
    fitting,
    forget_newer_checkpoints,
    remove_old_checkpoints,
    whole_checkpoint,
)
from training.device import start_decoding_worker
from training.evaluation import MetricsLine, counting_metrics
from training.models import load_strictly
from training.run_folder import write_figures
from visits.batches import VisitPairs, VisitSampler, with_unchanged
from visits.chain import change_columns, of_changed, possible_changes
from visits.error_model import ErrorModel
from visits.head import ChangeHead, head_of
from visits.settings import VisitModel

# Of the changes, and of the items, beside the counts, in the loss that is minimized.
CHANGE_WEIGHT, ITEM_WEIGHT = 1.0, 1.0
# Of the volume's change between two photos, beside that of the count: as of each target of items.
VOLUME_CHANGE_WEIGHT = 0.2


class BinTrainer(Trainer):
    """Trainer that prepares uint8 batches on the device and evaluates in items.

    Args:
        image_processor: its mean and standard deviation normalize the photos.
        counts: how many items each label id stands for.
        is_pretrained: whether the model's lower layers know something that is worth keeping.
    """

    args: BinTrainingArguments
    optimizer: Any  # None until it is made

    def __init__(
        self,
        model: PreTrainedModel,
        args: BinTrainingArguments,
        image_processor: ViTImageProcessor,
        counts: Sequence[int],
        is_pretrained: bool,
        **kwargs: Any,
    ) -> None:
        if model.config.model_type == "resnet" and (args.bf16 or args.fp16):
            # Batches are laid out so already. On one core of a CPU that has bf16 it saves 8 % of a
            # ResNet34's step in bf16, and nothing in fp32, whose sums stay as they are.
            model.to(memory_format=torch.channels_last)
        if args.bf16 and args.device.type == "cpu":
            # In bf16 the fused form's backward pass takes a third of a step on a CPU: 39-48 photos
            # a second against 56 with the plain one (ViT-Tiny, two cores). In fp32 the fused form
            # saves a tenth.
            model.set_attn_implementation("eager")
        weighs_checks = args.checked_weight != 1
        if kwargs.get("train_dataset") is not None:
            tells_items = item_heads_of(model) is not None
            kwargs["train_dataset"] = with_more(kwargs["train_dataset"], tells_items, weighs_checks)
        if side_heads(model):
            # They are asked beside the model, where a search for what a batch left out misses them;
            # each batch asks all of them.
            args.ddp_find_unused_parameters = False
        # What may end the training, of which only the first to do so has its say.
        endings: list[TrainerCallback] = [TrainingTime(args.max_hours)]
        if args.early_stopping_patience is not None:
            endings.insert(0, EarlyStopping(args.early_stopping_patience, self._as_judged))
        super().__init__(
            model=model,
            args=args,
            data_collator=partial(collate, keeps_visits=head_of(model) is not None),
            processing_class=image_processor,
            compute_metrics=counting_metrics(counts),
            callbacks=[MetricsLine(), OwnRandomness(), *timed_checkpoints(args), *endings],
            **kwargs,
        )
        self.endings = endings
        self.image_processor = image_processor
        self.is_pretrained = is_pretrained
        self.counts = tuple(counts)
        self.distances = item_distances(counts).to(args.device)
        self.change_columns = torch.from_numpy(change_columns(counts)).to(args.device)
        # Of the pairs that were evaluated last.
        self.change_logits: np.ndarray | None = None
        self.volume_changes: np.ndarray | None = None
        # Of the photos that were evaluated last.
        self.evaluated: EvalLoopOutput | None = None
        self.item_answers: np.ndarray | None = None
        item_heads = item_heads_of(self.model)
        self.item_settings = ItemSettings(item_heads.max_distinct) if item_heads else None
        self.visit_model = VisitModel(ErrorModel())  # until it is fitted, or read
        self.visit_sampler: VisitSampler | None = None
        self.count_weights = self._count_weights(len(counts))
        # Of a bin that nobody checked, and of one that somebody did; 1 on average over the bins.
        self.check_weights: torch.Tensor | None = None
        if weighs_checks and self.train_dataset is not None:
            share = share_checked(self.train_dataset)
            weights = torch.tensor([1.0, args.checked_weight], device=args.device)
            self.check_weights = weights / (1 - share + share * args.checked_weight)
        self.calibration: dict[str, float] = {}
        self.average: WeightAverage | None = None
        if args.do_train and args.regularize and args.average_weights:
            self.average = WeightAverage(self.model)
            self.add_callback(self.average)
        if args.do_train and args.regularize:
            add_drop_path(self.model, args.drop_path)
        self.diagnostics: Diagnostics | None = None
        if args.diagnostics and args.process_index == 0:
            labels = self.train_dataset.with_format(None)["label"]
            self.diagnostics = Diagnostics(
                model=self.model,
                output_dir=Path(str(args.output_dir)),
                facts=run_facts(self.model, args, [counts[label] for label in labels], counts),
                interval=args.diagnostics_interval,
                traced_steps=args.traced_steps,
                looks_at_outputs=not args.torch_compile,
            )
            self.add_callback(self.diagnostics)
        self.first_step = 0  # of this call: above 0 where a checkpoint goes on
        # The loss below is a mean over the batch; Trainer divides it by the accumulation steps.
        self.model_accepts_loss_kwargs = False
        # accelerate would divide it once more (transformers 5.3.0 with accelerate 1.12.0).
        self.accelerator.gradient_accumulation_steps = 1

    def _count_weights(self, num_counts: int) -> torch.Tensor | None:
        if self.args.class_weights == "none" or self.train_dataset is None:
            return None
        labels = torch.tensor(self.train_dataset.with_format(None)["label"])
        return balanced_weights(labels, num_counts).to(self.args.device)

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, torch.Tensor],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        """Return the mean loss of a training batch, and the outputs if asked for."""
        head = head_of(self.model)
        num_photos = len(inputs["labels"])
        batch = dict(inputs) if head is None else with_unchanged(inputs)
        pixel_values, share = self._augmented(batch)
        outputs = model(pixel_values=pixel_values)
        logits = outputs.logits[:num_photos]
        targets = functional.one_hot(batch["labels"], len(self.distances)).float()
        if share is not None:
            targets = mixed(targets, batch["partner"], share)
        targets = targets[:num_photos]
        if self.diagnostics is not None:
            self.diagnostics.see_answers(logits, targets)
        loss = counting_loss(
            self.args.loss,
            logits.float(),
            targets,
            self.distances,
            self.args.neighbour_weight,
            self.args.label_smoothing_factor,
        )
        if self.count_weights is not None:
            loss = loss * (targets @ self.count_weights)
        if self.check_weights is not None:
            loss = loss * self._weights_of_checks(self.check_weights, batch, share)
        total = loss.mean()
        if head is not None:
            total = total + CHANGE_WEIGHT * self._change_loss(head, batch, share)
        if (item_heads := item_heads_of(self.model)) is not None:
            total = total + ITEM_WEIGHT * self._item_loss(item_heads, batch, share)
        return (total, outputs) if return_outputs else total

    def _weights_of_checks(
        self, weights: torch.Tensor, batch: dict[str, torch.Tensor], share: torch.Tensor | None
    ) -> torch.Tensor:
        """Return what each photo of a batch counts in the loss, float (num_photos,)."""
        of_photos = weights[batch["is_checked"].long()]
        if share is None:
            return of_photos
        num_photos = len(of_photos)
        return mixed(of_photos, batch["partner"][:num_photos], share[:num_photos])

    def _augmented(
        self, batch: dict[str, torch.Tensor]
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return what the model is shown of a batch, and how much is mixed into each photo."""
        run = batch["run"]
        pixel_values = self._normalized(random_flip(batch["pixel_values"], run))
        if self.args.augment_colour:
            pixel_values = random_colour(pixel_values)
        elif "seen_twice" in batch:  # or equal bytes would be what an unchanged bin looks like
            again = batch["seen_twice"]
            pixel_values[again] = random_colour(pixel_values[again])
        if self.args.augment_geometry:
            apart = None
            if "seen_twice" in batch:
                apart = torch.full_like(pixel_values[:, 0, 0, 0], APART)
                apart[batch["seen_twice"]] = APART_SEEN_TWICE
            pixel_values = random_geometry(pixel_values, run, apart)
        if not self.args.mixup:
            return pixel_values, None
        share = mixing_shares(run)
        return mixed(pixel_values, batch["partner"], share), share

    def _change_loss(
        self, head: ChangeHead, batch: dict[str, torch.Tensor], share: torch.Tensor | None
    ) -> torch.Tensor:
        """Return the mean loss of the changes between photos that the model has just seen.

        That is of counts, and where it tells them of volumes, too.
        """
        earlier, later = batch["earlier"], batch["later"]
        with self.accelerator.autocast():
            projected = head.projected()
            answers = head(projected[earlier], projected[later]).float()
        logits = answers[:, : head.num_changes]

        def targets(rows: torch.Tensor) -> torch.Tensor:
            labels = batch["labels"][rows]
            column = self.change_columns[labels[earlier], labels[later]]
            return functional.one_hot(column, logits.shape[1]).float()

        wanted = targets(torch.arange(len(batch["labels"]), device=later.device))
        if share is not None:  # pairs are mixed with pairs
            wanted = wanted.lerp(targets(batch["partner"]), share[later, None])
        smoothing = self.args.label_smoothing_factor
        loss = cross_entropy(logits, wanted, smoothing).mean()
        if head.volumes is None:
            return loss
        volumes = volumes_of(batch)
        told = answers[:, head.num_changes :]
        of_volumes = volume_change_loss(told, volumes[later] - volumes[earlier])
        if share is not None:
            volumes = volumes[batch["partner"]]
            of_others = volume_change_loss(told, volumes[later] - volumes[earlier])
            of_volumes = of_volumes.lerp(of_others, share[later])
        return loss + VOLUME_CHANGE_WEIGHT * of_volumes.mean()

    def _item_loss(
        self, heads: ItemHeads, batch: dict[str, torch.Tensor], share: torch.Tensor | None
    ) -> torch.Tensor:
        """Return the mean loss of the items in photos that the model has just seen, each once."""
        targets = batch["items"]
        with self.accelerator.autocast():
            answers = heads()[: len(targets)].float()
        loss = item_loss(answers, targets)
        if share is not None:
            partner, share = batch["partner"][: len(targets)], share[: len(targets)]
            loss = loss.lerp(item_loss(answers, targets[partner]), share)
        return loss.mean()

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> Any:
        """Return the batches of a step, as Trainer does."""
        if self.diagnostics is None:
            return super().get_batch_samples(*args, **kwargs)
        with self.diagnostics.data_wait(self.state.global_step + 1):
            return super().get_batch_samples(*args, **kwargs)

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Train on a batch, as Trainer does, and return the loss."""
        loss = super().training_step(*args, **kwargs)
        if self.diagnostics is not None:
            scaler = self.accelerator.scaler  # of fp16
            self.diagnostics.after_backward(
                loss,
                is_last=self.accelerator.sync_gradients,
                gradient_scale=1.0 if scaler is None else scaler.get_scale(),
            )
        return loss

    def _get_train_sampler(self, *args: Any, **kwargs: Any) -> Sampler | None:
        """Return Trainer's; where changes are learned one that keeps the visits of a bin together.

        Both follow from the seed and the epoch.
        """
        if head_of(self.model) is None:
            return super()._get_train_sampler(*args, **kwargs)
        seed = self.args.seed if self.args.data_seed is None else self.args.data_seed
        self.visit_sampler = VisitSampler(*visits_of(self.train_dataset), seed)
        return self.visit_sampler

    def get_train_dataloader(self) -> DataLoader:
        """Return Trainer's, which tells the epoch to the sampler whose order follows from it.

        Behind batches that several processes share out, of which a run that goes on skips some,
        accelerate would find no sampler but its own (1.12), and the order be that of epoch 0.
        """
        dataloader: Any = super().get_train_dataloader()
        if self.visit_sampler is not None:
            dataloader.set_sampler(self.visit_sampler)
        return dataloader

    def get_decay_parameter_names(self, model: nn.Module) -> list[str]:
        """Return the names of the parameters that --weight_decay is for: matrices alone."""
        return matrices(model, super().get_decay_parameter_names(model))

    def create_optimizer(self, model: nn.Module | None = None) -> Optimizer:
        """Return Trainer's; with lower rates for lower layers where that is asked for."""
        if self.optimizer is None and self.args.regularize and self.is_pretrained:
            model = self.model if model is None else model
            optimizer_class, keywords = self.get_optimizer_cls_and_kwargs(self.args, model)
            groups = layer_groups(
                model,
                set(self.get_decay_parameter_names(model)),
                self.args.weight_decay,
                self.args.learning_rate,
            )
            self.optimizer = optimizer_class(groups, **keywords)
        return super().create_optimizer(model)

    def train(self, resume_from_checkpoint: str | None = None, **kwargs: Any) -> Any:
        """Train; the model is the averaged one then, where there is one.

        Args:
            resume_from_checkpoint: the first process's; other machines get it from there.
        """
        # train.py looks after it: Trainer would make steps smaller, and not tell the record.
        finds_batch, self.args.auto_find_batch_size = self.args.auto_find_batch_size, False
        try:
            with checkpoint_here(resume_from_checkpoint, self.args) as checkpoint:
                output = super().train(resume_from_checkpoint=checkpoint, **kwargs)
        finally:
            self.args.auto_find_batch_size = finds_batch
        for ending in self.endings:  # evaluations from now on are of the finished model
            self.remove_callback(ending)
        if self.average is not None:
            self.model.load_state_dict(self.average.model.state_dict())
            self.remove_callback(self.average)
            self.average = None
        return output

    def _run_epoch(self, *args: Any, **kwargs: Any) -> None:
        """Train for an epoch as Trainer does; a run that goes on may have ended before.

        Within an epoch, too, by --max_steps. Trainer would take another step before it looks.
        """
        has_ended = self.state.global_step >= self.state.max_steps
        if not self.control.should_training_stop and not has_ended:
            super()._run_epoch(*args, **kwargs)

    def _finalize_training(self, *args: Any, **kwargs: Any) -> Any:
        """End as Trainer does, and leave the checkpoints alone.

        Of --save_total_limit 1 it would leave the best one, from which a finished run goes on.
        """
        limit, self.args.save_total_limit = self.args.save_total_limit, None
        try:
            return super()._finalize_training(*args, **kwargs)
        finally:
            self.args.save_total_limit = limit

    def calibrate(self) -> PredictionOutput | None:
        """Fit a temperature on the validation split, and fold it into the model's classifier.

        `calibration` gets the temperature, and what it changed on that split; nothing where there
        is no validation split, or no linear classifier.

        Returns: what the model says of the validation split from now on; None where there is none.
            `change_logits` has the same of its pairs.
        """
        if self.eval_dataset is None:
            return None
        prediction = self.predict(self.eval_dataset)
        if self.item_answers is not None and has_items(self.eval_dataset):
            self._calibrate_items(self.item_answers)
        if self.volume_changes is not None and has_items(self.eval_dataset):
            self._calibrate_volume_changes(self.volume_changes)
        logits, labels = prediction.predictions, prediction.label_ids
        temperature = fitted_temperature(logits, labels)
        try:
            fold_temperature(self.model, temperature, self.image_processor.size["height"])
        except ValueError as error:
            print(f"Not calibrated: {error}.", file=sys.stderr)
            return prediction
        self.calibration |= {"calibration_temperature": temperature}
        self.calibration |= before_and_after("eval", logits, labels, temperature)
        if self.change_logits is not None:
            self._calibrate_changes(labels)
        return prediction._replace(predictions=logits / temperature)

    def _calibrate_changes(self, labels: np.ndarray) -> None:
        """Fit a temperature for the changes on the pairs that were just evaluated, and fold it in.

        Of pairs that differ: those that do not are learned from, and not seen in any split.
        """
        head = head_of(self.model)
        assert head is not None
        assert self.change_logits is not None
        columns = self._true_changes(labels, steps_of(self.eval_dataset))
        logits, columns = of_changed(self.change_logits, columns, self.counts)
        if len(columns) == 0:
            return
        temperature = fitted_temperature(logits, columns)
        head.divide_logits(temperature)
        self.change_logits = self.change_logits / temperature
        self.calibration |= {"calibration_change_temperature": temperature}

    def _calibrate_volume_changes(self, answers: np.ndarray) -> None:
        """Fit how sure the change head is of volumes on the same pairs, and fold it into it.

        Args:
            answers: of these pairs; they become those of the calibrated head.
        """
        head = head_of(self.model)
        assert head is not None
        true = volume_changes(items_of(self.eval_dataset), steps_of(self.eval_dataset))
        factor = fitted_spread_factor(true - answers[:, 0], np.exp(answers[:, 1]))
        head.multiply_spreads(factor)
        answers[:, 1] += np.log(factor)
        self.calibration |= {"calibration_change_volume_spread": factor}

    def _calibrate_items(self, answers: np.ndarray) -> None:
        """Fit how sure the item heads are on the validation split, and fold it into them.

        Args:
            answers: of the validation split; they become those of the calibrated heads.
        """
        heads = item_heads_of(self.model)
        assert heads is not None
        targets = items_of(self.eval_dataset)
        factors = fitted_spread_factors(answers, targets)
        logits, columns = distinct_items(answers, targets)
        temperature = fitted_temperature(logits, columns) if len(columns) else 1.0
        heads.calibrate(torch.from_numpy(factors), temperature)
        self.item_settings = ItemSettings(
            heads.max_distinct, SIZES, tuple(factors.tolist()), temperature
        )
        answers[:, len(SIZES) : 2 * len(SIZES)] += np.log(factors)
        answers[:, 2 * len(SIZES) :] /= temperature
        self.calibration |= {
            f"calibration_items_{name}_spread": float(factor)
            for name, factor in zip(SIZES, factors, strict=True)
        }
        self.calibration |= {"calibration_items_distinct_temperature": temperature}

    def prediction_step(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
    ) -> tuple[None, Any, Any]:
        """Return (None, answers, labels) of an evaluation batch, in full precision.

        Half precision moves a probability by a percent, and a served model answers in full
        precision. The loss is left to the metrics: Trainer's own mean over batches counts some
        photos twice when several processes evaluate.

        Returns: the answers by name: `counts`, logits, and `items` where there are item heads; of
            pairs also `changes`, the answers of the change head, and the same of the earlier
            photos: `earlier_counts` and `earlier_items`. The labels are those of both counts then,
            the earlier one's first.
        """
        inputs = self._prepare_inputs(inputs)
        if self.average is not None:
            model = self.average.model
        plain_model = self.accelerator.unwrap_model(model, keep_torch_compile=False)
        head, item_heads = head_of(plain_model), item_heads_of(plain_model)

        def answered(name: str) -> dict[str, torch.Tensor]:
            # The class's own forward: accelerate wraps the instance's in autocast for bf16.
            output = type(plain_model).forward(plain_model, self._normalized(inputs[name]))
            answers = {"counts": output.logits}
            return answers if item_heads is None else answers | {"items": item_heads()}

        with torch.no_grad():
            answers, labels = answered("pixel_values"), inputs["labels"]
            if "earlier_labels" not in inputs:
                return None, answers, labels
            assert head is not None
            later = head.projected()
            of_earlier = answered("earlier_pixel_values")
            answers |= {f"earlier_{name}": values for name, values in of_earlier.items()}
            answers["changes"] = head(head.projected(), later)
        return None, answers, (inputs["earlier_labels"], labels)

    def evaluation_loop(
        self,
        dataloader: DataLoader,
        *args: Any,
        metric_key_prefix: str = "eval",
        **kwargs: Any,
    ) -> EvalLoopOutput:
        """Evaluate as Trainer does, with the first process's running statistics in all of them.

        Where the model has a change head it is asked about each two visits that follow each other
        among these photos: `change_logits` has its answers, and `change_loss` is their mean loss,
        of pairs that differ; `volume_changes` has what it says of volumes, if anything. Where it
        has item heads, `item_answers` has what they say. `evaluated` has what is returned.

        Raises: BatchTooLargeError: memory ran out.
        """
        self._share_buffers()
        photos: Any = dataloader.dataset
        steps = np.empty((0, 2), dtype=np.int64)
        if head_of(self.model) is not None:
            steps = steps_of(photos)
        kwargs["metric_key_prefix"] = metric_key_prefix
        # The metrics are of all photos.
        compute_metrics, self.compute_metrics = self.compute_metrics, None  # type: ignore[has-type]
        try:
            output, answers = self._loop_over_visits(dataloader, steps, *args, **kwargs)
        except RuntimeError as error:
            if not should_reduce_batch_size(error):
                raise
            raise evaluation_too_large(self.args.per_device_eval_batch_size) from error
        finally:
            self.compute_metrics = compute_metrics
        assert compute_metrics is not None
        metrics = compute_metrics(EvalPrediction(output.predictions, output.label_ids))
        self.item_answers, of_pairs = answers.get("items"), answers.get("changes")
        self.change_logits = self.volume_changes = None
        if of_pairs is not None:
            num_changes = len(possible_changes(self.counts))
            self.change_logits = of_pairs[:, :num_changes]
            if of_pairs.shape[1] > num_changes:
                self.volume_changes = of_pairs[:, num_changes:]
            columns = self._true_changes(output.label_ids, steps)
            of_changes = of_changed(self.change_logits, columns, self.counts)
            if len(of_changes[0]):
                metrics["change_loss"] = calibration_figures(*of_changes)["loss"]
        if self.item_answers is not None and has_items(photos):
            figures = item_figures(self.item_answers, items_of(photos))
            metrics |= {f"items_{name}": value for name, value in figures.items()}
            if self.volume_changes is not None:
                true = volume_changes(items_of(photos), steps)
                figures = volume_change_figures(self.volume_changes, true)
                metrics |= {f"change_volume_{name}": value for name, value in figures.items()}
        named = {f"{metric_key_prefix}_{name}": value for name, value in metrics.items()}
        self.evaluated = output._replace(metrics=output.metrics | named)
        return self.evaluated

    def _loop_over_visits(
        self, dataloader: DataLoader, steps: np.ndarray, *args: Any, **kwargs: Any
    ) -> tuple[EvalLoopOutput, dict[str, np.ndarray]]:
        """Return what is said of all photos, each looked at once, by name: as in prediction_step.

        Those of `steps` are looked at as they come in pairs, whose `changes` are in their order.
        """
        photos: Any = dataloader.dataset
        others = np.setdiff1d(np.arange(len(photos)), steps)
        answers: dict[str, np.ndarray] = {}
        told: list[tuple[np.ndarray, dict[str, np.ndarray], np.ndarray]] = []
        if len(others):
            alone = self.get_test_dataloader(photos.select(others)) if len(steps) else dataloader
            output = super().evaluation_loop(alone, *args, **kwargs)
            told.append((others, output.predictions, output.label_ids))
        if len(steps):
            pairs = self.get_test_dataloader(VisitPairs(photos, steps))
            output = super().evaluation_loop(pairs, *args, **kwargs)
            of_pairs = output.predictions
            answers["changes"] = of_pairs.pop("changes")
            earlier = {
                name.removeprefix("earlier_"): of_pairs.pop(name)
                for name in list(of_pairs)
                if name.startswith("earlier_")
            }
            for side, of_photos in enumerate((earlier, of_pairs)):
                told.append((steps[:, side], of_photos, output.label_ids[side]))
        labels = np.empty(len(photos), dtype=np.int64)
        for rows, of_photos, labels_there in told:
            labels[rows] = labels_there
            for name, values in of_photos.items():
                whole = answers.setdefault(name, np.empty((len(photos), values.shape[1]), "f4"))
                whole[rows] = values
        loop = EvalLoopOutput(answers["counts"], labels, output.metrics, len(photos))
        return loop, answers

    def _true_changes(self, labels: np.ndarray, steps: np.ndarray) -> np.ndarray:
        """Return which change each step is, its column, int (num_steps,)."""
        before, after = labels[steps].T
        return change_columns(self.counts)[before, after]

    def _share_buffers(self) -> None:
        """Give each process the first one's buffers: each has its own of what it has seen.

        Those of the first are what is saved.
        """
        if self.args.world_size == 1:
            return
        models = [self.model] if self.average is None else [self.model, self.average.model]
        for buffer in (buffer for model in models for buffer in model.buffers()):
            distributed.broadcast(buffer, src=0)

    def _get_dataloader(self, *args: Any, **kwargs: Any) -> DataLoader:
        """Return Trainer's, whose workers are silent where the training hangs up on them."""
        dataloader = super()._get_dataloader(*args, **kwargs)
        initialize = dataloader.worker_init_fn
        dataloader.worker_init_fn = partial(start_decoding_worker, initialize)
        return dataloader

    def get_eval_dataloader(self, *args: Any, **kwargs: Any) -> DataLoader:
        """Return Trainer's, of every photo: dropping the last batch is meant for training."""
        with self._last_batch_kept():
            return super().get_eval_dataloader(*args, **kwargs)

    def get_test_dataloader(self, *args: Any, **kwargs: Any) -> DataLoader:
        """Return Trainer's, of every photo."""
        with self._last_batch_kept():
            return super().get_test_dataloader(*args, **kwargs)

    @contextmanager
    def _last_batch_kept(self) -> Iterator[None]:
        drop_last = self.args.dataloader_drop_last
        self.args.dataloader_drop_last = False
        try:
            yield
        finally:
            self.args.dataloader_drop_last = drop_last

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log, but for the summary of a training of which this call did a part only.

        Trainer divides the loss and the time of that part by the whole run's steps.
        """
        if "train_loss" in logs and self.first_step > 0:
            for name in ("train_loss", "train_samples_per_second", "train_steps_per_second"):
                logs.pop(name, None)
        super().log(logs, start_time)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        """Load both, and take the learning rate from the schedule, not from the optimizer.

        With more epochs than the checkpoint was made with the two differ for one step.
        """
        self.first_step = self.state.global_step
        if checkpoint is not None and self.state.best_global_step:
            # Where it is now: transformers 5.24 forgets the best one of a folder that was moved.
            self.state.best_model_checkpoint = str(self._best_checkpoint())
        if checkpoint is not None:
            self._load_parts(Path(checkpoint))
        if self.is_world_process_zero():  # not before all of it is known to fit
            forget_newer_checkpoints(Path(str(self.args.output_dir)), checkpoint)

    def _load_parts(self, checkpoint: Path) -> None:
        # Trainer asks for the optimizer's state on the device, and torch knows no cpu:0, which is
        # what a CPU is called where several processes train.
        for part, name in ((self.optimizer, OPTIMIZER_NAME), (self.lr_scheduler, SCHEDULER_NAME)):
            path = checkpoint / name
            with fitting(path):
                part.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
        schedule = self.lr_scheduler
        if isinstance(schedule, LambdaLR):
            schedule._last_lr = [
                base_rate * share(schedule.last_epoch)
                for base_rate, share in zip(schedule.base_lrs, schedule.lr_lambdas, strict=True)
            ]
            for group, rate in zip(self.optimizer.param_groups, schedule._last_lr, strict=True):
                group["lr"] = rate

    def _best_checkpoint(self) -> Path:
        return Path(str(self.args.output_dir)) / f"checkpoint-{self.state.best_global_step}"

    def _load_best_model(self) -> None:
        """Load the best checkpoint from where the run folder is now, not where it was once."""
        if self.is_world_process_zero():  # other machines have no checkpoints
            best = self._best_checkpoint()
            if not best.is_dir():
                raise FileNotFoundError(
                    f"The best checkpoint is gone: {best}; those that need it do not count any more"
                )
            load_strictly(self.model, best)
        for tensor in self.model.state_dict().values():
            # A copy where the weights do not lie in a row, such as channels last.
            tensor.copy_(broadcast(tensor.contiguous(), from_process=0))
        if self.average is not None:
            self.average.model.load_state_dict(self.model.state_dict())

    def _as_judged(self, metrics: dict[str, float]) -> dict[str, float]:
        """Return the metrics of an evaluation, with the loss that is least of the best one."""
        judged_by = str(self.args.metric_for_best_model).removeprefix("eval_")
        if "eval_change_loss" not in metrics or judged_by != "loss":
            return metrics
        # What is minimized, but for what is learned of items beside it.
        both = metrics["eval_loss"] + CHANGE_WEIGHT * metrics["eval_change_loss"]
        return metrics | {"eval_loss": both}

    def _determine_best_metric(self, metrics: dict[str, float], trial: Any) -> bool:
        """Return whether there is a new best one, as Trainer does, and have it saved.

        With more evaluations than checkpoints it would not be there in the end.
        """
        is_best = super()._determine_best_metric(self._as_judged(metrics), trial)
        if is_best and self.args.load_best_model_at_end:
            self.control.should_save = True
            self.state.best_global_step = self.state.global_step
        return is_best

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """Write a checkpoint that counts from its last file on, and then remove older ones."""
        checkpoint = Path(str(self.args.output_dir)) / f"checkpoint-{self.state.global_step}"
        limit = self.args.save_total_limit
        # Trainer would remove the older ones before this one counts.
        self.args.save_total_limit = None
        try:
            with whole_checkpoint(checkpoint) if self.args.should_save else nullcontext():
                super()._save_checkpoint(model, trial)
        finally:
            self.args.save_total_limit = limit
        if self.args.load_best_model_at_end and self.state.best_global_step:
            # Trainer looks for it on the disk, which may be another machine's.
            self.state.best_model_checkpoint = str(self._best_checkpoint())
        if self.args.should_save and limit is not None and limit > 0:
            remove_old_checkpoints(checkpoint.parent, limit)

    def _save_rng_state(self, output_dir: str) -> None:
        """Have the first process save what each draws from, which may be on another machine."""
        if self.args.world_size == 1:
            super()._save_rng_state(output_dir)
            return
        with tempfile.TemporaryDirectory() as folder:
            super()._save_rng_state(folder)
            states = gather_object(
                [(path.name, path.read_bytes()) for path in Path(folder).iterdir()]
            )
        if self.args.should_save:
            for name, state in states:
                Path(output_dir, name).write_bytes(state)

    def save_metrics(self, split: str, metrics: dict[str, float], combined: bool = True) -> None:
        """Save as Trainer does, each file whole."""
        if self.is_world_process_zero():
            write_figures(Path(str(self.args.output_dir)), split, metrics)

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        """Save the model as it is evaluated, and beside an average what training goes on with."""
        # Newer releases of transformers ask every process to save.
        if not self.args.should_save:
            return super()._save(output_dir, state_dict)
        folder = Path(output_dir or str(self.args.output_dir))
        if self.average is not None:
            state = self.average.model.state_dict()
        else:
            state = state_dict or self.model.state_dict()
        super()._save(str(folder), without_side_heads(state))
        save_side_heads(state, folder)
        if self.average is not None:
            save_trained_weights(self.model, folder)
        return None

    def _load_from_checkpoint(
        self, resume_from_checkpoint: str, model: nn.Module | None = None
    ) -> None:
        """Load what `_save` saved, to the bit."""
        checkpoint = Path(resume_from_checkpoint)
        with fitting(checkpoint):
            if self.average is None:
                load_strictly(self.model, checkpoint)
            else:
                load_strictly(self.average.model, checkpoint)
                load_trained_weights(self.model, checkpoint)

    def _normalized(self, pixel_values: torch.Tensor) -> torch.Tensor:
        return normalize(
            pixel_values, self.image_processor.image_mean, self.image_processor.image_std
        )


class OwnRandomness(TrainerCallback):
    """Has each process flip, mix and skip by a chance of its own; the first one's stays as it was.

    Models are made, and photos are shuffled, by the chance that all have in common: so it begins
    with the training, when both are done. A run that goes on has it from its checkpoint.
    """

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Seed this process."""
        if args.process_index > 0:
            torch.manual_seed(args.seed + args.process_index)


def timed_checkpoints(args: TrainingArguments) -> list[TrainerCallback]:
    """Return what writes checkpoints by the clock, where the arguments ask for it."""
    minutes = getattr(args, "checkpoint_minutes", None)
    return [TimedCheckpoints(minutes)] if minutes else []


def volumes_of(batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Return the logarithm of the volume of all items in each photo, float (num_photos,).

    Args:
        batch: of visits.batches.with_unchanged, whose items are those of the photos before these
            that are shown twice.
    """
    volumes = batch["items"][:, SIZES.index("volume")]
    return torch.cat([volumes, volumes[: len(batch["labels"]) - len(volumes)]])
