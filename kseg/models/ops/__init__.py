"""Operations: convolutions and resizing, exact on every backend and fast on each device."""
