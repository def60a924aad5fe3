"""Restoration networks in plain PyTorch: tensors in, tensors out. Nothing here opens a file or prints.

Map, in reading order
    schedule       ScaleSchedule: coarse-to-fine grids, their place in the sequence, the block-causal mask
    first_stage    FirstStageRestorer: the pre-restorer alone on a tile; settings of all restorers
    restorer       OneStepRestorer: degraded tile -> restored tile in one pass
    multistep      MultiStepRestorer: the same, scale after scale: what one pass is measured against
    conv_restorer  ConvRestorer: cleans the input first; swinir: the released one; rrdb: Real-ESRGAN's
    autoencoder    image <-> latent; upsampling: its doubling of a map, also that of the pre-restorers
    quantizer      latent <-> bits of all scales, the pyramid tokens between, bit flips; tokenizer: both in one
    transformer    ONE class: the one-step student and the multi-step teacher, with condition and config
    layers, attention, rope    its blocks; attention without weights; two-dimensional rotary positions
    sampler        scores -> bits; the teacher's scale-by-scale sampler
    lora           adapters: add, merge, state
    losses         distillation and bit losses; discriminator
    color_fix      colours of the result from the pre-restored image
    convert        released state dict -> ours; released_keys: the tables of names

Shape legend: names end in their shape
    B batch, L positions of the whole pyramid, l positions of one scale, C width, N heads, K head width,
    n condition tokens, T width of the text features, d bits per code, h w latent grid, H W pixels.
    So image_B3HW, latent_Bdhw, tokens_BLd, hidden_BLC, bits_BLd, logits_BLd2, queries_BLNK.

Words
    scale schedule      coarse-to-fine tuple of (h, w) grids; the last is the full latent grid
    latent              continuous output of the encoder
    bits                {0, 1}, d per position; what the transformer predicts
    codes               the real vectors that bits stand for
    accumulated codes   running sum of upsampled codes, decoded at the end
    pyramid tokens      inputs of all scales after the first, concatenated; the start token is not one
    extra block         the accumulated codes at full resolution, behind the pyramid; seen, not predicted
    level embedding     marks the scale a token belongs to
    condition           tokens for cross-attention, and their pooled vector for the norms
    student, teacher    one-step model without a mask; multi-step model with a block-causal mask
    adapter             low-rank addition to an attention projection; merging folds it in
    tile                pixel window of the model's size; tiles overlap and are blended
    degraded, restored, reference   input, output, ground truth
"""
