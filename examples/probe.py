"""Judge the frozen features of a checkpoint on a labelled dataset: k nearest neighbours and a linear probe, in minutes.

    python examples/probe.py --dataset eurosat --data_dir EuroSAT --model_name_or_path spectralgpt-base-plus

Any dataset of finetune_classification.py, with one class an image or several. The weight decay of the linear probe is
chosen on the validation split; the test split is looked at once. `--config_name tiny` in place of a checkpoint tells
what random weights give. Scores are printed, and written to `<output_dir>/probe.json`.
"""

from spectralgpt_hf.commands.probe import main


if __name__ == "__main__":
    main()
