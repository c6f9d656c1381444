"""Score the frozen features of a checkpoint on a labelled dataset, by k nearest neighbours and by a linear probe.

    python examples/probe.py --dataset eurosat --data_dir EuroSAT --model_name_or_path spectralgpt-base-plus

It takes the datasets of finetune_classification.py, with one or several classes per image. The weight decay of the
linear probe is chosen on the validation split; the test split is scored once. With `--config_name tiny` in place of a
checkpoint, an encoder with random weights is scored. Scores are printed and written to `<output_dir>/probe.json`.
"""

from spectralgpt_hf.commands.probe import main


if __name__ == "__main__":
    main()
