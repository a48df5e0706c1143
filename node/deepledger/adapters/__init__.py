"""Code that you have, as a task: a plain script, a Flower client, a Hugging Face Trainer, a LightningModule.

    from deepledger import adapters
    TASK = adapters.trainer(trainer)

in the file that makes the trainer, before the line that trains, and the file is a task. Each adapter takes what your
code makes anyway and makes others like it, in every round, for the round's model and a participant's data. The
libraries are needed only where they are used.
"""

from deepledger.adapters.adapted import Adapted
from deepledger.adapters.flower_apps import flower, loaders, recorded
from deepledger.adapters.hugging_face import trainer
from deepledger.adapters.lightning_modules import lightning
from deepledger.adapters.pinned import pinned
from deepledger.adapters.rows import columns, records
from deepledger.adapters.scripts import script

__all__ = ["Adapted", "columns", "flower", "lightning", "loaders", "pinned", "recorded", "records", "script", "trainer"]
