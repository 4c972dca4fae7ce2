"""Fine-tuning, distillation and pretraining: what `squeezebert-fast finetune`, `distill` and `pretrain` run.

    tasks/         what is learnt: examples to tensors, logits to a loss, answers to metrics
    batches.py     which examples make which optimizer step: a function of seed and epoch
    loop.py        a session: steps, evaluations, checkpoints, early stopping
    stepping.py    one step: loss, gradient, optimizer
    run_folder.py  what a run leaves on disk, and how it goes on after a kill
    teachers.py, distillation.py   soft targets

Nothing random has a state. Dropout, masking and order are each drawn from a generator seeded by what they are
for (the run's seed, the step, the epoch, the example), so that a resumed run needs to know its step and nothing
else to go on with the same bits.
"""
