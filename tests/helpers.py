"""What several tests use."""


def pixel_table(images, labelled=True):
    """Lay images out as Kaggle's CSV does."""
    flat = images.pixels.transpose(0, 2, 3, 1).reshape(len(images), -1)
    header = [f"pixel{i}" for i in range(flat.shape[1])]
    rows = [",".join(map(str, row)) for row in flat]
    if labelled:
        header.insert(0, "label")
        rows = [f"{images.class_names[label]},{row}" for label, row in zip(images.labels, rows, strict=True)]
    return "\n".join([",".join(header), *rows, ""])
