"""Operations on maps: convolutions, pooling and resizing, exact on every backend and fast on each device."""
