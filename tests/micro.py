"""The smallest run there is: frames of 16 pixels, 4 tokens, networks of a few thousand numbers; for tests of what lies around the numbers."""

from iris_edu.apps.commands import parse_train

SIZES = (
    "--preset tiny --game Catch --device cpu --env.size 16 --autoencoder.size 16 --autoencoder.tokens 4 --autoencoder.channels 8 --autoencoder.groups 4 --autoencoder.latent 8 "
    "--tokenizer.vocabulary 8 --tokenizer.dim 4 --transformer.layers 1 --transformer.width 8 --world-model.steps 4 --actor-critic.channels 8 8 --actor-critic.hidden 16 --actor-critic.horizon 4 "
    "--actor-critic.burn-in 2 --training.tokenizer-after 0 --training.world-model-after 0 --training.actor-critic-after 0 --training.tokenizer-batch 4 --training.world-model-batch 4 "
    "--training.actor-critic-batch 4"
).split()


def configuration(*words):
    "The configuration of the smallest run with further options."
    return parse_train([*SIZES, *words])[1].config()
