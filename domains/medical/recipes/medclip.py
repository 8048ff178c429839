"""Images and reports that share findings belong together, whoever's they are, as in MedCLIP.

"MedCLIP: Contrastive Learning from Unpaired Medical Images and Text", 2022, arXiv 2210.10163. As published: soft
targets by findings, AdamW at 2e-5 with weight decay 1e-4, a rise over a tenth of the steps, batches of 100, 10 epochs.
Findings are the labels of the set, or a table of `vladapt curate findings` (`--set data.findings=FILE`). Ours: a whole
report has the findings of its study (released: each sentence its own), and the domain's augmentation.
"""

task = "pretraining"
domain = "medical"
loss = ["medclip"]
epochs = 10
batch_size = 100
lr = 2e-5
betas = [0.9, 0.999]
weight_decay = 1e-4
warmup = 0.1
